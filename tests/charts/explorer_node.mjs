// Answers requests with the page's own engine, for the tests: reads a JSON list from stdin, prints answers with their milliseconds.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, data] = process.argv.slice(2);
const { Engine } = await import(pathToFileURL(`${modules}/engine.js`));
const engine = new Engine(async (name) => {
  const bytes = readFileSync(`${data}/${name}`);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
});
const answers = [];
for (const request of JSON.parse(readFileSync(0, "utf-8"))) {
  const start = performance.now();
  const answer = request.kind === "encode"
    ? (await engine.model()).tokenizer.encode(request.text)
    : request.kind === "decode"
      ? (await engine.model()).tokenizer.decode(request.ids)
      : await engine.answer(request).catch((error) => ({ error: error.message }));
  answers.push({ answer, ms: performance.now() - start });
}
process.stdout.write(JSON.stringify(answers));
