// Starts the page's WebAssembly module in a Web Worker (the module sees that it is not in a window).
import init from "./hilda-app.js";
await init({ module_or_path: new URL("./hilda-app_bg.wasm", import.meta.url) });
