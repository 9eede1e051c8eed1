// The services of tidemill.v1 out of proto/, a channel to a server, and the key that every call has.
//
//   TIDEMILL_API_KEY   the server's key, if it wants one
//   TIDEMILL_CA        the PEM file of the authority of a server that speaks TLS

const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "../../../proto");
const FILES = ["tidemill/v1/text_classification.proto", "tidemill/v1/generation.proto"];

const definition = loader.loadSync(FILES, { includeDirs: [PROTO], keepCase: true, longs: Number, enums: String });
const { v1 } = grpc.loadPackageDefinition(definition).tidemill;

function credentials() {
  const ca = process.env.TIDEMILL_CA;
  return ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
}

function metadata() {
  const metadata = new grpc.Metadata();
  if (process.env.TIDEMILL_API_KEY) {
    metadata.set("authorization", `Bearer ${process.env.TIDEMILL_API_KEY}`);
  }
  return metadata;
}

const inSeconds = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

module.exports = { grpc, v1, credentials, metadata, inSeconds };
