// Asks an Ancestral server for images, in one call and as they finish, and for the codes of these images.
//
//     node example.js [ADDRESS [SAMPLER [ENCODER]]]
//
// Each line of the output is a JSON object. A server that names its callers wants a token: ANCESTRAL_TOKEN.
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address = "localhost:8500", sampler = "digits-pixelcnn", encoder = "digits-vae"] = process.argv.slice(2);
const protos = fileURLToPath(new URL("../../../protos", import.meta.url));

// int64 has more digits than a number of JavaScript: shapes and versions are small, seeds are not, and come as text.
const definition = protoLoader.loadSync("ancestral/v1/inference_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true, // the first image has the index 0, which is not sent
  oneofs: true,
});
const { InferenceService } = grpc.loadPackageDefinition(definition).ancestral.v1;
const client = new InferenceService(address, grpc.credentials.createInsecure(), {
  // gRPC takes 4 MiB unless it is told to take more; this is what the server sends at most.
  "grpc.max_receive_message_length": 64 * 2 ** 20,
});

const metadata = new grpc.Metadata();
if (process.env.ANCESTRAL_TOKEN) metadata.set("authorization", `Bearer ${process.env.ANCESTRAL_TOKEN}`);
// Every call has a deadline: one without waits for ever where nobody answers.
const options = (seconds) => ({ deadline: Date.now() + 1000 * seconds });

const TYPES = { DATA_TYPE_UINT8: Uint8Array, DATA_TYPE_FLOAT32: Float32Array };

// The elements of a Tensor, row-major. Copied, since those of a message need not lie where a Float32Array may begin.
function elements({ dtype, data }) {
  return new TYPES[dtype](Uint8Array.from(data).buffer);
}

const shape = (tensor) => tensor.shape.map(Number);
const hash = (data) => createHash("sha256").update(data).digest("hex");
const tell = (said) => console.log(JSON.stringify(said));

// The same model, version, seed and index always give the same bytes.
const request = { model: sampler, count: 4, seed: "7" };

async function main() {
  const samples = await promisify(client.Sample).call(client, request, metadata, options(60));
  const { images, seed, info } = samples;
  tell({ call: "Sample", version: Number(info.version), seed, shape: shape(images), sha256: hash(images.data) });

  const stream = client.SampleStream({ sample: request }, metadata, options(60));
  for await (const { image } of stream) {
    const finished = image.image; // [H,W,C]
    tell({ call: "SampleStream", index: Number(image.index), shape: shape(finished), sha256: hash(finished.data) });
  }

  const { mean } = await promisify(client.Encode).call(client, { model: encoder, images }, metadata, options(60));
  tell({ call: "Encode", shape: shape(mean), mean: Array.from(elements(mean)) });
}

try {
  await main();
} catch (error) {
  // `details` says what was asked, what was found and what is allowed; UNAVAILABLE and RESOURCE_EXHAUSTED are worth another
  // attempt, others are not.
  console.error(`${grpc.status[error.code] ?? "error"}: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
