// The networks, beside the page, so that it answers while they compute.
const RUNTIMES = {
  wasm: ["./runtime/ort.wasm.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.wasm.gz"],
  webgpu: ["./runtime/ort.webgpu.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.asyncify.wasm.gz"],
};
const EMPTY_MODULE = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0);

let ort, backend, encoder, renderer, latents;
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
  async load({ asked }) {
    try {
      await WebAssembly.compile(EMPTY_MODULE);
    } catch {
      return { blocked: true };
    }
    const why = asked ? "" : await whyNoGraphicsCard();
    if (asked === "wasm" || why) return start("wasm", why);
    try {
      return await start("webgpu");
    } catch (error) {
      return start("wasm", failed(error));
    }
  },

  encode: ({ images, shape }) => orOnTheProcessor(async () => {
    const { w_plus } = await encoder.run({ images: new ort.Tensor("float32", images, shape) });
    latents = [w_plus.data, w_plus.dims];
    return {};
  }),

  edit: ({ strengths }) => orOnTheProcessor(async () => {
    const values = new ort.Tensor("float32", strengths, [1, strengths.length]);
    const { edited } = await renderer.run({ w_plus: new ort.Tensor("float32", ...latents), strengths: values });
    return { edited: edited.data, shape: edited.dims };
  }),
};

// "" where there is one; else what the page says after "on the processor".
async function whyNoGraphicsCard() {
  const gpu = globalThis.navigator?.gpu;
  if (!gpu) {
    return globalThis.isSecureContext === false
      ? "as browsers lend the graphics card to pages from https only"
      : "as this browser does not lend its graphics card (WebGPU)";
  }
  const adapter = await gpu.requestAdapter().catch(() => null);
  if (!adapter) return "as this browser finds no graphics card (WebGPU)";
  const software = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  return software ? "as the graphics card (WebGPU) of this browser is itself computed by it" : "";
}

const failed = (error) =>
  `as its graphics card failed: ${String(error?.message ?? error).trim().replace(/\.$/, "")}`;

// A card can fail, or be taken away, at any time. What has begun on it is begun again.
async function orOnTheProcessor(work) {
  try {
    return await work();
  } catch (error) {
    if (backend !== "webgpu") throw error;
    const started = await start("wasm", failed(error));
    return { ...(await work()), ...started };
  }
}

async function start(wanted, why = "") {
  const [script, binary] = RUNTIMES[wanted];
  ort = await import(script);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  ort.env.wasm.wasmBinary = await unpacked(binary);
  const options = { executionProviders: [wanted] };
  encoder = await ort.InferenceSession.create(await fetched("encoder.onnx"), options);
  renderer = await ort.InferenceSession.create(await fetched("renderer.onnx"), options);
  backend = wanted;
  return { backend, why };
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
