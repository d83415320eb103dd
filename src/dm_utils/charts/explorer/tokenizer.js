// Byte-level BPE exactly as a `tokenizer.json` of that kind says: special tokens, pieces, bytes, merges.
// `\s` means Unicode white space there, which JavaScript's own `\s` is not (U+0085 and U+FEFF differ).

const PIECES =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** GPT-2's alphabet: a printable character for each of the 256 bytes. */
function byteAlphabet() {
  const letters = [];
  let spare = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173);
    letters.push(String.fromCodePoint(printable ? byte : spare++));
  }
  return letters;
}

export class Tokenizer {
  constructor(file) {
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    this.ranks = new Map(file.model.merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]));
    this.special = new Map(file.added_tokens.map((token) => [token.content, token.id]));
    this.bos = file.post_processor.single.filter((part) => part.SpecialToken)
      .flatMap((part) => file.post_processor.special_tokens[part.SpecialToken.id].ids);
    this.letters = byteAlphabet();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.pieces = new Map([...this.vocabulary].map(([piece, id]) => [id, piece]));
    this.kept = new Map(); // pieces that were merged before
  }

  /** At most `limit` token ids of a text, BOS first, and whether the text had more. */
  encode(text, limit = Infinity) {
    const ids = [...this.bos];
    for (const part of this.splitSpecial(text)) {
      if (this.special.has(part)) ids.push(this.special.get(part));
      else for (const [piece] of part.matchAll(PIECES)) {
        for (const id of this.merged(piece)) ids.push(id);
        if (ids.length > limit) return { ids: ids.slice(0, limit), truncated: true };
      }
      if (ids.length > limit) return { ids: ids.slice(0, limit), truncated: true };
    }
    return { ids, truncated: false };
  }

  splitSpecial(text) {
    const names = [...this.special.keys()].map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    return text.split(new RegExp(`(${names.join("|")})`)).filter((part) => part !== "");
  }

  /** Ids of one piece: the pair learned first is joined everywhere, again and again until none is left. */
  merged(piece) {
    const known = this.kept.get(piece);
    if (known) return known;
    let parts = Array.from(new TextEncoder().encode(piece), (byte) => this.letters[byte]);
    for (;;) {
      let best = Infinity, pair = null;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, pair] = [rank, [parts[i], parts[i + 1]]];
      }
      if (!pair) break;
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        const here = parts[i] === pair[0] && parts[i + 1] === pair[1];
        joined.push(here ? parts[i] + parts[++i] : parts[i]);
      }
      parts = joined;
    }
    const ids = parts.map((part) => this.vocabulary.get(part));
    if (this.kept.size > 5000) this.kept.clear(); // an hour of typing must not fill the memory
    if (piece.length < 64) this.kept.set(piece, ids);
    return ids;
  }

  /** The text of some ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids) {
    const bytes = ids.flatMap((id) => this.bytesOf(id));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
  }

  bytesOf(id) {
    const piece = this.pieces.get(id);
    if (this.special.has(piece)) return [...new TextEncoder().encode(piece)];
    return Array.from(piece, (letter) => this.bytes.get(letter));
  }
}
