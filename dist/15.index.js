export const id = 15;
export const ids = [15];
export const modules = {

/***/ 27015:
/***/ ((__unused_webpack___webpack_module__, __webpack_exports__, __webpack_require__) => {

/* harmony export */ __webpack_require__.d(__webpack_exports__, {
/* harmony export */   createBundle: () => (/* binding */ createBundle)
/* harmony export */ });
/* harmony import */ var _sigstore_bundle__WEBPACK_IMPORTED_MODULE_0__ = __webpack_require__(61040);
/* harmony import */ var _sigstore_sign__WEBPACK_IMPORTED_MODULE_1__ = __webpack_require__(15179);


async function createBundle(statement, token, { fulcio, rekor, timestamp }, { timeout, retries, pause }) {
    const calls = { timeout, retry: { retries, minTimeout: pause, maxTimeout: 8 * pause } };
    const witnesses = [
        ...(rekor === undefined ? [] : [new _sigstore_sign__WEBPACK_IMPORTED_MODULE_1__/* .RekorWitness */ .fU({ rekorBaseURL: rekor, fetchOnConflict: true, ...calls })]),
        ...(timestamp === undefined ? [] : [new _sigstore_sign__WEBPACK_IMPORTED_MODULE_1__/* .TSAWitness */ .gs({ tsaBaseURL: timestamp, ...calls })]),
    ];
    const identityProvider = { getToken: async () => token };
    const signer = new _sigstore_sign__WEBPACK_IMPORTED_MODULE_1__/* .FulcioSigner */ .$o({ fulcioBaseURL: fulcio, identityProvider, ...calls });
    const builder = new _sigstore_sign__WEBPACK_IMPORTED_MODULE_1__/* .DSSEBundleBuilder */ .VV({ signer, witnesses });
    const bundle = await builder.create({ data: Buffer.from(statement), type: 'application/vnd.in-toto+json' });
    return JSON.stringify((0,_sigstore_bundle__WEBPACK_IMPORTED_MODULE_0__.bundleToJSON)(bundle));
}


/***/ })

};
