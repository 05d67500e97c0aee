// How search ranks what it finds: whoever types the exact name of a symbol means the symbol, not a module of that name.
// Of pages with the same words, the guides come first. The other numbers are Sphinx's own.
const GUIDES = {"howto/": 8, "tutorials/": 4, "benchmarks": 4};
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => score - (anchor.startsWith("#module-") ? 100 : 0)
    + Object.keys(GUIDES).reduce((sum, k) => sum + (docname.startsWith(k) ? GUIDES[k] : 0), 0),
  objNameMatch: 200, objPartialMatch: 6,
  objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7,
  term: 5, partialTerm: 2,
};
