export const id = 494;
export const ids = [494];
export const modules = {

/***/ 7494:
/***/ ((__unused_webpack___webpack_module__, __webpack_exports__, __webpack_require__) => {

// ESM COMPAT FLAG
__webpack_require__.r(__webpack_exports__);

// EXPORTS
__webpack_require__.d(__webpack_exports__, {
  runCli: () => (/* binding */ runCli)
});

// EXTERNAL MODULE: ./lib/actions/cancel.js
var cancel = __webpack_require__(77849);
// EXTERNAL MODULE: external "node:util"
var external_node_util_ = __webpack_require__(57975);
// EXTERNAL MODULE: ./lib/errors.js
var errors = __webpack_require__(452);
// EXTERNAL MODULE: ./lib/inputs/mode.js
var inputs_mode = __webpack_require__(34214);
// EXTERNAL MODULE: external "node:fs/promises"
var promises_ = __webpack_require__(51455);
// EXTERNAL MODULE: ./node_modules/valibot/dist/index.mjs
var dist = __webpack_require__(77934);
// EXTERNAL MODULE: ./node_modules/yaml/dist/index.js
var yaml_dist = __webpack_require__(38815);
;// CONCATENATED MODULE: ./lib/cli/options.js



const METADATA = dist/* object */.Ikc({
    description: dist/* string */.YjP(),
    inputs: dist/* record */.g1P(dist/* string */.YjP(), dist/* object */.Ikc({ description: dist/* string */.YjP(), default: dist/* optional */.lqM(dist/* string */.YjP(), '') })),
});
async function readActionMetadata() {
    const text = await (0,promises_.readFile)(__webpack_require__.ab + "action.yml", 'utf8');
    return dist/* parse */.qgA(METADATA, (0,yaml_dist/* parse */.qg)(text, { schema: 'failsafe' }));
}
const ONLY_IN_JOBS = new Set([
    'mode',
    'summary',
    'retention-days',
    'artifact-pattern',
    'attest',
    'token',
    'job-total',
    'job-index',
]);
const OWN_DESCRIPTIONS = {
    'verify image': 'The published image with its tag or digest, such as `ghcr.io/owner/app:1.2.3`.',
    image: 'The name of the image without tag or digest, such as `ghcr.io/owner/app`.',
    system: 'The Nix system to build for, such as `aarch64-linux`. Default: the system of this machine.',
    push: 'With `push: false`: build and check everything, but publish nothing.',
    labels: 'Labels to add to the image, `key=value`.',
    tags: 'Tags to publish, separated by commas. A bare tag applies to every `image`, a full reference to its own repository. Default: `latest` and `{sha}` (with a variant `{variant}` and `{sha}-{variant}`).',
    digests: 'Digest records as text: the output `record` of a build, or a bare `sha256:…`. Default: the files in the folder of records.',
    annotations: 'Annotations of the published index, `key=value`. The key may have a level: `manifest:key`.',
};
const IGNORED = { verify: ['push'] };
const MODES_PREFIX = /^((?:build|merge|plan|verify)(?:, (?:build|merge|plan|verify))*): /;
const LIST = /, one (?:\S+ )?per line|separated by lines or commas/;
const LIST_WORDS = { 'separated by lines or commas': 'separated by commas' };
function optionsOf(mode, { inputs }) {
    return Object.entries(inputs).flatMap(([name, input]) => {
        const [, modes] = MODES_PREFIX.exec(input.description) ?? [];
        if (ONLY_IN_JOBS.has(name) || IGNORED[mode]?.includes(name))
            return [];
        return modes === undefined || modes.split(', ').includes(mode) ? [optionOf(name, input, mode)] : [];
    });
}
function optionOf(name, input, mode) {
    const usual = input.default.includes('${{') ? '' : input.default;
    const isSwitch = ['true', 'false'].includes(usual);
    const isList = LIST.test(input.description);
    const own = OWN_DESCRIPTIONS[`${mode} ${name}`] ?? OWN_DESCRIPTIONS[name];
    const description = own ?? input.description.replace(MODES_PREFIX, '').replace(LIST, (lines) => LIST_WORDS[lines] ?? '');
    return {
        name,
        kind: isSwitch ? 'switch' : isList ? 'list' : 'text',
        required: name === 'image',
        default: usual,
        description: description.charAt(0).toUpperCase() + description.slice(1),
    };
}

;// CONCATENATED MODULE: ./lib/cli/arguments.js




const PROGRAM = 'nix-image-action';
const DEFAULT_RECORDS = 'nix-image-records';
const OWN_OPTIONS = ['records', 'json', 'verbose', 'help'];
function readCommand(args, action) {
    const [name = '', ...rest] = args;
    const mode = inputs_mode/* MODES */.FN.find((one) => one === name);
    const asksForHelp = args.includes('--help') || args.includes('-h');
    if (asksForHelp || name === 'help')
        return { kind: 'help', mode: mode ?? inputs_mode/* MODES */.FN.find((one) => one === rest[0]) };
    if (mode === undefined)
        throw unknownMode(name);
    return readRun(mode, rest, action);
}
function unknownMode(name) {
    if (name.startsWith('-'))
        return new errors/* InputError */.dz({
            message: `The mode is missing before ${name}`,
            hint: `Begin with a mode: ${PROGRAM} build, merge, plan or verify.`,
        });
    return new errors/* InputError */.dz({
        message: `Unknown mode "${name}"`,
        hint: [
            ...suggest(name, inputs_mode/* MODES */.FN),
            `The modes are build, merge, plan and verify. Run "${PROGRAM} --help" for help.`,
        ].join('\n'),
    });
}
function readRun(mode, args, action) {
    const options = optionsOf(mode, action);
    const given = readTokens(mode, args, options, action);
    const missing = options.find(({ name, required }) => required && !given.has(name));
    if (missing !== undefined)
        throw new errors/* InputError */.dz({
            message: `${PROGRAM} ${mode} needs --${missing.name}`,
            hint: `For example:\n  ${PROGRAM} ${mode} --image ghcr.io/owner/app${mode === 'verify' ? ':1.2.3' : ''}`,
        });
    const inputs = options.map(({ name, default: usual }) => [name, given.get(name)?.join('\n') ?? usual]);
    return {
        kind: 'run',
        mode,
        inputs: { mode, ...Object.fromEntries(inputs) },
        records: given.get('records')?.at(-1) ?? DEFAULT_RECORDS,
        json: given.has('json'),
        verbose: given.has('verbose'),
    };
}
function readTokens(mode, args, options, action) {
    const own = [
        { name: 'records', kind: 'text' },
        { name: 'json', kind: 'switch' },
        { name: 'verbose', kind: 'switch' },
    ];
    const known = new Map([...own, ...options].map((option) => [option.name, option]));
    const { tokens } = (0,external_node_util_.parseArgs)({
        args: [...args],
        options: Object.fromEntries([...known].map(([name, { kind }]) => [name, { type: kind === 'switch' ? 'boolean' : 'string' }])),
        strict: false,
        allowNegative: true,
        tokens: true,
    });
    const values = new Map();
    for (const token of tokens) {
        if (token.kind === 'option-terminator')
            continue;
        if (token.kind === 'positional')
            throw new errors/* InputError */.dz({
                message: `Unexpected argument "${token.value}"`,
                hint: `Every value belongs to an option, such as --image ${token.value}. Repeat an option that takes a list.`,
            });
        const option = known.get(token.name);
        if (option === undefined)
            throw unknownOption(mode, token.rawName, [...known.keys()], action);
        const value = option.kind === 'switch' ? readSwitch(token.rawName, token.value) : readValue(token, args);
        const before = values.get(option.name) ?? [];
        if (option.kind === 'text' && before.length > 0)
            throw new errors/* InputError */.dz({ message: `The option --${option.name} is given twice`, hint: 'Give it once.' });
        values.set(option.name, option.kind === 'switch' ? [value] : [...before, value]);
    }
    return values;
}
function readSwitch(rawName, value) {
    return rawName.startsWith('--no-') ? 'false' : (value ?? 'true');
}
function readValue(token, args) {
    const { name, value, inlineValue } = token;
    const isOption = value?.startsWith('--') && !inlineValue && name !== 'nix-args';
    if (value !== undefined && !isOption)
        return value;
    throw new errors/* InputError */.dz({
        message: `The option --${name} needs a value`,
        hint: isOption && args.includes(value ?? '') ? `If ${value} is the value, write --${name}=${value}.` : undefined,
    });
}
function unknownOption(mode, rawName, known, action) {
    const name = rawName.replace(/^--?(no-)?/, '');
    const others = inputs_mode/* MODES */.FN.filter((one) => optionsOf(one, action).some((option) => option.name === name));
    const hints = name === 'token'
        ? ['Secrets are read from the environment only: set GITHUB_TOKEN.']
        : others.length > 0
            ? [`It is an option of ${others.map((one) => `${PROGRAM} ${one}`).join(' and ')}.`]
            : suggest(name, [...known, ...OWN_OPTIONS]).map((text) => text.replace('"', '"--'));
    return new errors/* InputError */.dz({
        message: `Unknown option ${rawName}`,
        hint: [...hints, `Run "${PROGRAM} ${mode} --help" for all options.`].join('\n'),
    });
}
function suggest(name, names) {
    const [nearest] = names
        .map((one) => ({ one, distance: editDistance(name, one) }))
        .filter(({ one, distance }) => distance <= Math.max(1, Math.floor(one.length / 3)))
        .sort((a, b) => a.distance - b.distance);
    return nearest === undefined ? [] : [`Did you mean "${nearest.one}"?`];
}
function editDistance(from, to) {
    let [before, last] = [
        [],
        Array.from({ length: to.length + 1 }, (_, at) => at),
    ];
    for (let row = 1; row <= from.length; row++) {
        const current = [row];
        for (let at = 1; at <= to.length; at++) {
            const same = from[row - 1] === to[at - 1];
            const swapped = row > 1 && at > 1 && from[row - 1] === to[at - 2] && from[row - 2] === to[at - 1];
            current.push(Math.min((current[at - 1] ?? 0) + 1, (last[at] ?? 0) + 1, (last[at - 1] ?? 0) + (same ? 0 : 1), swapped ? (before[at - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY));
        }
        before = last;
        last = current;
    }
    return last[to.length] ?? 0;
}

// EXTERNAL MODULE: external "node:os"
var external_node_os_ = __webpack_require__(48161);
// EXTERNAL MODULE: ./lib/context.js
var context = __webpack_require__(86048);
// EXTERNAL MODULE: ./lib/modes/revision.js
var revision = __webpack_require__(46943);
// EXTERNAL MODULE: ./lib/process/git.js
var git = __webpack_require__(18209);
// EXTERNAL MODULE: ./lib/text.js
var lib_text = __webpack_require__(68804);
;// CONCATENATED MODULE: ./lib/cli/checkout.js





async function readCheckout(folder, recordFolder, env) {
    return {
        run: { id: '', attempt: 1 },
        job: '',
        revision: '',
        repository: '',
        source: sourceOf((await (0,git/* runGit */.EO)(folder, ['remote', 'get-url', 'origin'])) ?? ''),
        api: '',
        tempFolder: (0,external_node_os_.tmpdir)(),
        recordFolder,
        runnerSystem: (0,context/* ownSystem */.yB)(env),
    };
}
function sourceOf(remote) {
    const [, host, path] = /^(?:https?|ssh|git):\/\/(?:[^/@]*@)?([^/:]+)(?::\d+)?\/(.+)$/.exec(remote.trim()) ??
        /^(?:[^/@:]+@)?([^/:@]+\.[^/:@]+):([^/].*)$/.exec(remote.trim()) ??
        [];
    return host === undefined || path === undefined ? '' : `https://${host}/${path.replace(/(\.git)?\/*$/, '')}`;
}
async function findUncommitted(source) {
    const folder = (0,revision/* sourceFolder */.Id)(source);
    const changes = folder && (await (0,git/* runGit */.EO)(folder, ['status', '--porcelain', '--untracked-files=no', '--', '.']));
    if (!changes)
        return undefined;
    const count = changes.split('\n').length;
    const files = count === 1 ? '1 file has' : `${count} files have`;
    return `${files} uncommitted changes. The image contains them, although its tag and its revision name the last commit.`;
}
async function compareInCheckout(folder, base, head) {
    if (base === head)
        return 'identical';
    const missing = [base, head].find((commit) => !(0,git/* isCommitId */.jh)(commit));
    if (missing !== undefined)
        return { unknown: `"${(0,lib_text/* sanitizeLine */.g$)(missing)}" is not a commit` };
    const mergeBase = await (0,git/* runGit */.EO)(folder, ['merge-base', base, head]);
    if (mergeBase === base)
        return 'ahead';
    if (mergeBase === head)
        return 'behind';
    const shallow = (await (0,git/* runGit */.EO)(folder, ['rev-parse', '--is-shallow-repository'])) !== 'false';
    return mergeBase === undefined || shallow
        ? { unknown: 'the history that is checked out here does not connect the two' }
        : 'diverged';
}

// EXTERNAL MODULE: ./lib/actions/advice.js
var advice = __webpack_require__(70375);
;// CONCATENATED MODULE: ./lib/cli/wording.js


function adviseOnRegistry(error, mode) {
    const { host, problem } = error;
    switch (problem) {
        case 'no-credentials':
            return `Log in first:\n${loginCommands(host)}`;
        case 'wrong-credentials':
            return `Check the user name and the password or token, and log in again:\n${loginCommands(host)}`;
        case 'refused-login':
        case 'denied':
        case 'refused-token':
            return `Check that the login has ${mode === 'verify' ? 'read' : 'write'} access to the repository${host === 'ghcr.io' ? ` (the token's scope "${mode === 'verify' ? 'read' : 'write'}:packages")` : ''}, or log in as another user:\n${loginCommands(host)}`;
        case 'rate-limited':
            return `Log in first, because rate limits are higher for authenticated requests:\n${loginCommands(host)}\nOr try again later.`;
        default:
            return (0,advice/* adviceFor */.c)(error, mode);
    }
}
function loginCommands(host) {
    const server = host === 'docker.io' ? '' : ` ${host}`;
    return `  docker login${server}\nor without Docker:\n  skopeo login ${host}`;
}
const PHRASES = [
    ['Re-run this job', 'Run the command again'],
    ['re-run this job', 'run the command again'],
    ['Run this job again', 'Run the command again'],
    ['run this job again', 'run the command again'],
    ['in this step:', 'on the command line:'],
    ['in the build and the merge of an image', 'for the build and the merge of an image'],
    ['No build of this run has handed over a digest', 'There is no digest record'],
    [
        'Make this job wait for the build jobs (`needs: build`), and give both the same `image`. Builds',
        'Give the builds and the merge the same `image`. Builds',
    ],
    ['Use a `concurrency` group for the merge job so that its runs wait for each other', 'Run one merge at a time'],
];
function inTermsOfOptions(message, options) {
    const known = new Map(options.map((option) => [option.name, option]));
    const names = [...known.keys()].sort((a, b) => b.length - a.length).join('|');
    const phrased = PHRASES.reduce((text, [from, to]) => text.replaceAll(from, to), message);
    const setting = (name, value) => formatSetting(known.get(name), name, value);
    return withoutBlocks(phrased, names, setting)
        .replaceAll(new RegExp(`^( +)(${names}): (.+)$`, 'gm'), (_, indent, name, value) => indent + setting(name, value))
        .replaceAll(new RegExp(`\`(${names}): ([^\`]+)\``, 'g'), (_, name, value) => `\`${setting(name, value)}\``)
        .replaceAll(new RegExp(`\`(${names})\` is \`(true|false)\``, 'g'), (_, name, value) => `\`${setting(name, value)}\` is set`)
        .replaceAll(new RegExp(`\`(${names})\``, 'g'), '`--$1`')
        .replaceAll(/(?:[Aa] step with )?`mode: (build|merge|plan|verify)`/g, `\`${PROGRAM} $1\``)
        .replaceAll(/\b([Tt]he|[Ii]ts) input(s?)(?= `--)/g, '$1 option$2');
}
function formatSetting(option, name, value) {
    if (option?.kind !== 'switch')
        return `--${name} ${value}`;
    return value === 'false' ? `--no-${name}` : `--${name}`;
}
function withoutBlocks(text, names, setting) {
    const block = new RegExp(`^( +)(${names}): \\|\\n((?:\\1 +.+(?:\\n|$))+)`, 'gm');
    return text.replaceAll(block, (_, indent, name, lines) => {
        const values = lines.trimEnd().split('\n');
        return `${values.map((line) => indent + setting(name, line.trim())).join('\n')}${lines.endsWith('\n') ? '\n' : ''}`;
    });
}

;// CONCATENATED MODULE: ./lib/cli/help.js




function formatHelp(mode, action, width) {
    const columns = Math.min(Math.max(width, 40), 100);
    return mode === undefined ? formatOverview(action, columns) : formatMode(mode, action, columns);
}
function formatOverview(action, columns) {
    const rows = inputs_mode/* MODES */.FN.map((mode) => [mode, describeMode(mode, action)]);
    return [
        ...wrap(`${action.description}.`, columns),
        '',
        `Usage: ${PROGRAM} <mode> [options]`,
        '',
        'Modes:',
        ...formatTable(rows, columns),
        '',
        'Options:',
        ...formatTable([
            ['-h, --help', 'Print help. After a mode: the options of that mode.'],
            ['--version', 'Print the version.'],
        ], columns),
        '',
        'Environment:',
        ...formatTable([
            ['DOCKER_CONFIG', 'The folder of the file config.json with the logins. Default: ~/.docker.'],
            ['GITHUB_TOKEN', 'A token for ghcr.io, used if no login is configured for it.'],
        ], columns),
        '',
        `For the options of a mode, run "${PROGRAM} build --help".`,
        '',
    ].join('\n');
}
function formatMode(mode, action, columns) {
    const options = optionsOf(mode, action);
    const rows = options.map((option) => [formatOption(option), inTermsOfOptions(describeOption(option), options)]);
    const usesRecords = mode === 'build' || mode === 'merge';
    const own = [
        ...(usesRecords ? [['--records <folder>', describeRecords(mode)]] : []),
        ['--json', 'Print the outputs as a JSON object.'],
        ['--verbose', 'Log details for the diagnosis of errors.'],
        ['-h, --help', 'Print this help.'],
    ];
    const required = options.filter((option) => option.required).map((option) => formatOption(option));
    return [
        ...wrap(describeMode(mode, action), columns),
        '',
        `Usage: ${[PROGRAM, mode, ...required, '[options]'].join(' ')}`,
        '',
        'Options:',
        ...formatTable([...rows, ...own], columns),
        '',
        'Repeat an option with "..." to give several values.',
        '',
    ].join('\n');
}
function describeRecords(mode) {
    const what = mode === 'build' ? 'to write the digest record to, for the merge' : 'with the digest records of the builds';
    return `The folder ${what}. Default: ${DEFAULT_RECORDS}.`;
}
function formatOption({ name, kind, default: usual }) {
    if (kind === 'switch')
        return usual === 'true' ? `--[no-]${name}` : `--${name}`;
    return `--${name} <${kind === 'list' ? 'value>...' : 'value>'}`;
}
function describeOption({ kind, default: usual, description }) {
    const text = kind === 'switch' ? description.replace(/^`true` (.)/, (_, first) => first.toUpperCase()) : description;
    if (kind === 'switch')
        return usual === 'true' ? `${text} Default: true.` : text;
    return usual === '' || text.includes('Default: ') ? text : `${text} Default: \`${usual}\`.`;
}
function describeMode(mode, { inputs }) {
    const [, text = ''] = new RegExp(`\`${mode}\`: (.*?\\.)(?= \`|$)`, 's').exec(inputs.mode?.description ?? '') ?? [];
    return text.charAt(0).toUpperCase() + text.slice(1);
}
const INDENT = 2;
const NAME_WIDTH = 28;
function formatTable(rows, columns) {
    const width = Math.min(NAME_WIDTH, Math.max(...rows.map(([name]) => name.length + 2)));
    return rows.flatMap(([name, text]) => {
        const lines = wrap(text, columns - INDENT - width);
        const [first = '', ...more] = name.length + 2 > width ? ['', ...lines] : lines;
        const indent = ' '.repeat(INDENT);
        return [`${indent}${name.padEnd(width)}${first}`, ...more.map((line) => indent + ' '.repeat(width) + line)].map((line) => line.trimEnd());
    });
}
function wrap(text, width) {
    const lines = [''];
    for (const word of text.split(/\s+/)) {
        const line = lines.at(-1) ?? '';
        if (line === '')
            lines[lines.length - 1] = word;
        else if (line.length + 1 + word.length <= width)
            lines[lines.length - 1] = `${line} ${word}`;
        else
            lines.push(word);
    }
    return lines;
}

;// CONCATENATED MODULE: ./lib/cli/outputs.js
const ELSEWHERE = new Set(['name', 'record', 'changes', 'differences']);
function formatOutputs(outputs) {
    const shown = Object.entries(outputs).filter(([name, value]) => !ELSEWHERE.has(name) && value !== '');
    const width = Math.max(0, ...shown.map(([name]) => name.length)) + 2;
    return shown.map(([name, value]) => `${formatLines(name, value, width)}\n`).join('');
}
function formatJson(outputs) {
    const values = Object.entries(outputs).map(([name, value]) => [name, readOutput(name, value)]);
    return `${JSON.stringify(Object.fromEntries(values), undefined, 2)}\n`;
}
function formatLines(name, value, width) {
    const rows = JSON_OUTPUTS.has(name) ? formatRows(JSON.parse(value)) : value.split('\n');
    return rows.map((row, at) => `${(at === 0 ? name : '').padEnd(width)}${row}`).join('\n');
}
const JSON_OUTPUTS = new Set(['platforms', 'changes', 'matrix', 'differences']);
const LIST_OUTPUTS = new Set(['tags', 'skipped-tags', 'record']);
const NUMBER_OUTPUTS = new Set(['pushed-bytes', 'reused-layers']);
function readOutput(name, value) {
    if (name === 'record')
        return value.split('\n').map((line) => JSON.parse(line));
    if (JSON_OUTPUTS.has(name) && value !== '')
        return JSON.parse(value);
    if (LIST_OUTPUTS.has(name))
        return value.split('\n').filter((line) => line !== '');
    if (NUMBER_OUTPUTS.has(name))
        return Number(value);
    return /^(true|false)$/.test(value) ? value === 'true' : value;
}
function formatRows(value) {
    const items = isMatrix(value) ? value.include : Array.isArray(value) ? value : [value];
    const rows = items.map((item) => Object.entries(item).map(([key, one]) => (one === true ? key : String(one))));
    const widths = rows.reduce((most, row) => row.map((cell, at) => Math.max(cell.length, most[at] ?? 0)), []);
    return rows.map((row) => row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd());
}
function isMatrix(value) {
    return typeof value === 'object' && value !== null && 'include' in value && Array.isArray(value.include);
}

// EXTERNAL MODULE: ./node_modules/yocto-spinner/index.js + 1 modules
var yocto_spinner = __webpack_require__(36540);
// EXTERNAL MODULE: ./lib/progress.js
var progress = __webpack_require__(61288);
;// CONCATENATED MODULE: ./lib/cli/progress-bar.js


const INTERVAL = 100;
function startProgressBar(stream, exits = process) {
    if (!stream.isTTY || process.env.TERM === 'dumb' || 'CI' in process.env)
        return undefined;
    let phase = '';
    const started = performance.now();
    const spinner = (0,yocto_spinner/* default */.A)({ stream, handleSignals: false }).start();
    const update = () => {
        const seconds = (performance.now() - started) / 1000;
        spinner.text = formatProgressBar((0,progress/* currentProgress */.P)(), phase, seconds, (stream.columns || 80) - 3);
    };
    const timer = setInterval(update, INTERVAL);
    timer.unref();
    const stop = () => {
        clearInterval(timer);
        exits.off('exit', stop);
        spinner.stop();
    };
    exits.once('exit', stop);
    return {
        setPhase(text) {
            phase = text;
            update();
        },
        stop,
    };
}
const BAR_WIDTH = 24;
function formatProgressBar(progress, phase, seconds, width) {
    const time = seconds < 60 ? `${Math.floor(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
    const text = progress === undefined ? phase : formatBar(progress);
    return `${text}${text === '' ? '' : ' · '}${time}`.slice(0, Math.max(width, 1));
}
function formatBar({ work, unit, done, total }) {
    const filled = Math.min(BAR_WIDTH, Math.floor((done / total) * BAR_WIDTH));
    return `${work} ${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${done} of ${total} ${unit}`;
}

// EXTERNAL MODULE: ./lib/secrets.js
var secrets = __webpack_require__(80150);
;// CONCATENATED MODULE: ./lib/cli/terminal-log.js



function createTerminalLog({ stream, verbose, reword, onPhase }) {
    const colours = stream.hasColors?.() === true;
    const print = (text) => void stream.write(`${text}\n`);
    const styled = (style, text) => colours ? (0,external_node_util_.styleText)(style, text, { validateStream: false }) : text;
    const safe = (message) => (0,lib_text/* sanitize */.aj)((0,secrets/* withoutSecrets */.c)(message));
    const inPhase = async (title, work) => {
        const name = safe(title);
        print(styled('bold', name));
        onPhase(name);
        try {
            return await work();
        }
        finally {
            onPhase('');
        }
    };
    return {
        info: (message) => print(safe(reword(message))),
        notice: (message) => print(`${styled('cyan', 'note:')} ${safe(reword(message))}`),
        warning: (message) => print(`${styled('yellow', 'warning:')} ${safe(reword(message))}`),
        error: (message) => print(`${styled('red', 'error:')} ${safe(reword(message))}`),
        debug: (message) => verbose && print(styled('dim', safe(message))),
        mask: (secret) => void (0,secrets/* addSecret */.C)(secret),
        group: inPhase,
        groupToolOutput: inPhase,
        toolLine: (line) => print((colours ? line : (0,lib_text/* withoutEscapes */.Lx)(line)).replace(/^\[command\]/, '$ ')),
    };
}

// EXTERNAL MODULE: ./lib/inputs/inputs.js + 4 modules
var inputs_inputs = __webpack_require__(37470);
// EXTERNAL MODULE: ./lib/log.js
var lib_log = __webpack_require__(97309);
// EXTERNAL MODULE: ./lib/modes/phases.js
var phases = __webpack_require__(83290);
// EXTERNAL MODULE: ./lib/process/output.js
var output = __webpack_require__(95732);
// EXTERNAL MODULE: ./lib/run-mode.js + 155 modules
var run_mode = __webpack_require__(59630);
;// CONCATENATED MODULE: ./lib/cli.js

















const FAILED = 1;
const MISUSED = 2;
async function runCli(args, env) {
    const action = await readActionMetadata();
    const command = readOrExplain(args, action);
    if (typeof command === 'number')
        return command;
    if (command.kind === 'run')
        return runLocally(command, action, env);
    process.stdout.write(formatHelp(command.mode, action, process.stdout.columns ?? 80));
    return 0;
}
function readOrExplain(args, action) {
    try {
        return readCommand(args, action);
    }
    catch (error) {
        if (!(error instanceof errors/* InputError */.dz))
            throw error;
        plainLog().error(error.message);
        return MISUSED;
    }
}
function plainLog() {
    return createTerminalLog({
        stream: process.stderr,
        verbose: false,
        reword: (message) => message,
        onPhase: () => undefined,
    });
}
async function runLocally(command, action, env) {
    const options = optionsOf(command.mode, action);
    const bar = startProgressBar(process.stderr);
    const log = createTerminalLog({
        stream: process.stderr,
        verbose: command.verbose,
        reword: (message) => inTermsOfOptions(message, options),
        onPhase: (title) => bar?.setPhase(title),
    });
    (0,output/* redirectLines */._E)(log.toolLine);
    (0,cancel/* endOnSignals */.cn)(log);
    const stopReports = (0,lib_log/* reportSilence */.Qc)(log.info);
    const ownEnvironment = environmentOf(command, env);
    try {
        if (env.GITHUB_TOKEN)
            log.mask(env.GITHUB_TOKEN);
        const { outputs, failure } = await runInCheckout(command, ownEnvironment, log);
        bar?.stop();
        process.stdout.write((0,secrets/* withoutSecrets */.c)(command.json ? formatJson(outputs) : formatOutputs(outputs)));
        if (failure !== undefined)
            throw failure;
        return 0;
    }
    catch (error) {
        if ((0,cancel/* isCancelled */.mm)())
            return new Promise(() => undefined);
        bar?.stop();
        const advise = (failure) => adviseOnRegistry(failure, command.mode);
        log.error((await (0,run_mode/* explainError */.U)(error, ownEnvironment, advise)).message);
        if (error instanceof Error)
            log.debug(error.stack ?? error.message);
        return error instanceof errors/* InputError */.dz ? MISUSED : FAILED;
    }
    finally {
        stopReports();
    }
}
async function runInCheckout({ records }, env, log) {
    const inputs = (0,inputs_inputs/* readInputs */.K)(env);
    for (const notice of inputs.notices)
        log.notice(notice);
    for (const note of inputs.notes)
        log.info(note);
    const uncommitted = inputs.mode === 'build' && inputs.push ? await findUncommitted(inputs) : undefined;
    if (uncommitted !== undefined)
        log.warning(uncommitted);
    const compareCommits = (base, head) => compareInCheckout('.', base, head);
    const progress = { phases: (0,phases/* startPhases */.TE)(), writes: [] };
    return (0,run_mode/* runMode */.r)(inputs, env, await readCheckout('.', records, env), log, progress, { compareCommits });
}
const OF_JOBS = /^(INPUT_|GITHUB_|RUNNER_|ACTIONS_|DOCKER_METADATA_)/;
function environmentOf({ inputs }, env) {
    const own = Object.entries(env).filter(([name]) => !OF_JOBS.test(name));
    const machine = { ...Object.fromEntries(own), RUNNER_OS: process.platform === 'darwin' ? 'macOS' : 'Linux' };
    const system = inputs.system || (0,context/* ownSystem */.yB)(machine).replace(/-darwin$/, '-linux');
    const values = { ...inputs, system, token: env.GITHUB_TOKEN ?? '' };
    return {
        ...machine,
        GITHUB_SERVER_URL: 'https://github.com',
        GITHUB_ACTOR: env.GITHUB_ACTOR || 'token',
        ...Object.fromEntries(Object.entries(values).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value])),
    };
}


/***/ })

};
