export const id = 362;
export const ids = [362];
export const modules = {

/***/ 34362:
/***/ ((__unused_webpack___webpack_module__, __webpack_exports__, __webpack_require__) => {

/* harmony export */ __webpack_require__.d(__webpack_exports__, {
/* harmony export */   readSigner: () => (/* binding */ readSigner)
/* harmony export */ });
/* harmony import */ var _sigstore_core__WEBPACK_IMPORTED_MODULE_0__ = __webpack_require__(83917);

const BUILD_SIGNER_URI = '1.3.6.1.4.1.57264.1.9';
const SOURCE_REPOSITORY_URI = '1.3.6.1.4.1.57264.1.12';
const SOURCE_REPOSITORY_REF = '1.3.6.1.4.1.57264.1.14';
function readSigner(base64) {
    try {
        const certificate = _sigstore_core__WEBPACK_IMPORTED_MODULE_0__.X509Certificate.parse(Buffer.from(base64, 'base64'));
        const read = (oid) => certificate.extension(oid)?.valueObj.subs[0]?.value.toString('utf8');
        const [workflow, repository, ref] = [BUILD_SIGNER_URI, SOURCE_REPOSITORY_URI, SOURCE_REPOSITORY_REF].map(read);
        if (workflow === undefined || repository === undefined || ref === undefined)
            return undefined;
        return { workflow, repository, ref };
    }
    catch {
        return undefined;
    }
}


/***/ })

};
