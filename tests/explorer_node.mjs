// Answers requests with the page's own engine, for the tests: each line of stdin is a JSON list of requests, each line of stdout its answers.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [modules, data] = process.argv.slice(2);
const { Engine } = await import(pathToFileURL(`${modules}/engine.js`));
const engine = new Engine(async (name) => {
  const bytes = readFileSync(`${data}/${name}`);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
});
for await (const line of createInterface({ input: process.stdin })) {
  const answers = [];
  for (const request of JSON.parse(line)) {
    answers.push(request.kind === "encode"
      ? (await engine.model()).tokenizer.encode(request.text)
      : request.kind === "decode"
        ? (await engine.model()).tokenizer.decode(request.ids)
        : await engine.answer(request).catch((error) => ({ error: error.message })));
  }
  process.stdout.write(JSON.stringify(answers) + "\n");
}
