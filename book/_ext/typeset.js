// Typesets every page's formulas: stdin is a list of pages, each a list of { tex, display }; stdout has each page's HTML and its style.
const mathjax = require(process.argv[2]);

const extensions = ["boldsymbol", "cancel", "color", "mathtools"];

mathjax.init({
  loader: { load: ["input/tex", "output/chtml", "adaptors/liteDOM", "a11y/assistive-mml", ...extensions.map((name) => `[tex]/${name}`)] },
  // A formula that cannot be typeset stops the build, and one from a caption cannot load an extension or make a link.
  tex: { packages: { "[+]": extensions, "[-]": ["autoload", "require", "noundefined"] } },
  chtml: { fontURL: "FONTS" },
}).then((MathJax) => {
  const { adaptor, output } = MathJax.startup;
  const typeset = ({ tex, display }) => adaptor.outerHTML(MathJax.tex2chtml(tex, { display }));
  const pages = JSON.parse(require("fs").readFileSync(0, "utf8")).map((formulas) => {
    output.clearCache();
    const html = formulas.map(typeset);
    return { html, style: adaptor.textContent(MathJax.chtmlStylesheet()) };
  });
  process.stdout.write(JSON.stringify(pages));
}).catch((error) => {
  console.error(error);
  process.exit(1);
});
