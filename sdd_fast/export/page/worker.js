// The networks, beside the page, so that it answers while they compute.
const RUNTIMES = {
  wasm: ["./runtime/ort.wasm.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.wasm.gz"],
  webgpu: ["./runtime/ort.webgpu.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.asyncify.wasm.gz"],
};
const EMPTY_MODULE = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0);

let ort, encoder, renderer, latents;
let last = Promise.resolve();

// One after the other: what a message asks for may depend on the one before.
onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      postMessage({ id: data.id, kind: data.kind, ...(await HANDLERS[data.kind](data)) });
    } catch (error) {
      postMessage({ id: data.id, kind: data.kind, error: String(error?.message ?? error) });
    }
  });
};

const HANDLERS = {
  async load({ backend }) {
    try {
      await WebAssembly.compile(EMPTY_MODULE);
    } catch {
      return { blocked: true };
    }
    const wanted = backend ?? ((await hasGraphicsCard()) ? "webgpu" : "wasm");
    if (wanted === "webgpu") {
      try {
        await start("webgpu");
        return { backend: "webgpu" };
      } catch (error) {
        await start("wasm");
        return { backend: "wasm", why: String(error?.message ?? error) };
      }
    }
    await start("wasm");
    return { backend: "wasm" };
  },

  async encode({ images, shape }) {
    const result = await encoder.run({ images: new ort.Tensor("float32", images, shape) });
    latents = result.w_plus;
    return {};
  },

  async edit({ strengths }) {
    const values = new ort.Tensor("float32", strengths, [1, strengths.length]);
    const { edited } = await renderer.run({ w_plus: latents, strengths: values });
    return { edited: edited.data, shape: edited.dims };
  },
};

async function hasGraphicsCard() {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

async function start(backend) {
  const [script, binary] = RUNTIMES[backend];
  ort = await import(script);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  ort.env.wasm.wasmBinary = await unpacked(binary);
  const options = { executionProviders: [backend] };
  encoder = await ort.InferenceSession.create(await fetched("encoder.onnx"), options);
  renderer = await ort.InferenceSession.create(await fetched("renderer.onnx"), options);
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function unpacked(url) {
  const bytes = await fetched(url);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes; // by the server and the browser
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
