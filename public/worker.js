// Starts the page's WebAssembly module in a Web Worker. The interface passes the hashed addresses of its own files.
const { searchParams } = new URL(self.location.href);
const local = (name) => {
  const url = new URL(searchParams.get(name), self.location.href);
  if (url.origin !== self.location.origin) throw new Error(`${name} must come from this site`);
  return url.href;
};
const module = await import(local("js"));
await module.default({ module_or_path: local("wasm") });
