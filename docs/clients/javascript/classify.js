// A typed call with a deadline, and what an error says.
//
//   npm install
//   node classify.js 127.0.0.1:8080 reviews

const { grpc, v1, credentials, metadata, inSeconds } = require("./tidemill");

const [address = "127.0.0.1:8080", model = ""] = process.argv.slice(2);
const client = new v1.TextClassification(address, credentials());

function classify(texts) {
  return new Promise((resolve, reject) => {
    const request = { model, texts, top_k: 1 };
    client.Classify(request, metadata(), inSeconds(5), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

async function main() {
  const texts = ["a fine film", "a dull one"];
  const { classifications } = await classify(texts);
  classifications.forEach(({ labels: [best] }, index) => {
    console.log(`${best.label} ${best.probability.toFixed(3)} ${texts[index]}`);
  });

  try {
    await classify([]);
  } catch (error) {
    console.log(`${grpc.status[error.code]}: ${error.details}`);
  }
  client.close();
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
