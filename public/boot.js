// Runs before the first paint: the theme that the visitor chose, and where the worker's script is (its name is hashed
// when the page is built). Says so when the page cannot start.
(() => {
  document.documentElement.dataset.worker = new URL("./worker.js", document.currentScript.src).href;
  try {
    const theme = localStorage.getItem("hilda-theme");
    if (theme) document.documentElement.dataset.theme = theme;
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
