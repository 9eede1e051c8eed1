// An answer as it is written, and one that is cancelled.
//
//   npm install
//   node stream.js 127.0.0.1:8080 chat

const { grpc, v1, credentials, metadata, inSeconds } = require("./tidemill");

const [address = "127.0.0.1:8080", model = ""] = process.argv.slice(2);
const client = new v1.Generation(address, credentials());

async function write() {
  const request = { model, prompt: "The tide", sampling: { max_tokens: 16, temperature: 0 } };
  let usage;
  for await (const piece of client.GenerateStream(request, metadata(), inSeconds(60))) {
    process.stdout.write(piece.text);
    usage = piece.usage ?? usage;
  }
  console.log(`\n${usage.completion_tokens} tokens`);
}

// Who has read enough cancels, and the server stops working on it.
function cancel() {
  const request = { model, prompt: "The tide", sampling: { max_tokens: 64, ignore_end: true } };
  const stream = client.GenerateStream(request, metadata(), inSeconds(60));
  return new Promise((resolve, reject) => {
    stream.once("data", () => stream.cancel());
    stream.on("error", (error) => (error.code === grpc.status.CANCELLED ? resolve() : reject(error)));
    stream.on("end", () => reject(new Error("it was answered whole")));
  });
}

async function main() {
  await write();
  await cancel();
  console.log("cancelled: CANCELLED");
  client.close();
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
