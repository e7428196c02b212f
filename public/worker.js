// Starts the page's WebAssembly module in a Web Worker (the module sees that it is not in a window). The page says in the
// address which of the two modules it chose.
import init from "./hilda-app.js";
const relaxed = self.location.hash === "#relaxed";
await init({ module_or_path: new URL(relaxed ? "./hilda-app_bg.wasm" : "./hilda-app_plain.wasm", import.meta.url) });
