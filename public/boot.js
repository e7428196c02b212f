// Runs before the first paint: the theme that the visitor chose, which of the two modules this browser can run, and where
// the worker's script is (their names are hashed when the page is built). Says so when the page cannot start.
(() => {
  const root = document.documentElement;
  const here = document.currentScript.src;
  // (func (param v128 v128 v128) (result v128) local.get 0 local.get 1 local.get 2 f32x4.relaxed_madd)
  const madd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0,
    10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11];
  let relaxed = false;
  try {
    relaxed = new URLSearchParams(location.search).get("simd") !== "plain" && WebAssembly.validate(new Uint8Array(madd));
  } catch {
    // no WebAssembly at all: said below
  }
  root.dataset.worker = new URL("./worker.js", here).href + (relaxed ? "#relaxed" : "");
  root.dataset.module = new URL(relaxed ? "./hilda-app_bg.wasm" : "./hilda-app_plain.wasm", here).href;
  const preload = document.createElement("link");
  Object.assign(preload, { rel: "preload", as: "fetch", type: "application/wasm", crossOrigin: "", href: root.dataset.module });
  document.head.append(preload);
  try {
    const theme = localStorage.getItem("hilda-theme");
    if (theme) root.dataset.theme = theme;
  } catch {
    // storage is switched off: the system's theme applies
  }
  const say = (text) => {
    const boot = document.getElementById("boot-text");
    if (boot) boot.textContent = text;
  };
  if (typeof WebAssembly !== "object") {
    addEventListener("DOMContentLoaded", () => say("This browser cannot run WebAssembly, which the page needs."));
  }
  addEventListener("error", (event) => say("The page could not start: " + (event.message || "a file is missing")), true);
  addEventListener("unhandledrejection", (event) => say("The page could not start: " + event.reason));
})();
