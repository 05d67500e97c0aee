// How search ranks what it finds. Whoever types the exact name of a symbol means the symbol, not a module of that name.
// A sentence is looked up word by word and no word is required: Sphinx's own search wants all of them on one page.
// A rare word counts more than a common one; in a title it counts more than in the text, and a title that says little
// else counts most. Of pages with the same words, the guides come first.
const GUIDES = {"howto/": 1.15, "tutorials/": 1.1, "explanations/": 1.1, "benchmarks": 1.1};
const AS_TITLE = 2.5;

var Scorer = {
  score: ([docname, title, anchor, descr, score]) => score - (anchor.startsWith("#module-") ? 210 : 0),
  objNameMatch: 200, objPartialMatch: 1,
  objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 0, partialTitle: 0,  // titles are ranked below, by their words
  term: 5, partialTerm: 2,
};

// A letter is in most names
const findObjects = Search.performObjectSearch;
Search.performObjectSearch = (object, terms) => object.length < 3 ? [] : findObjects(object, terms);
const splitWords = splitQuery;
splitQuery = (query) => splitWords(query.replace(/w&b/gi, "wandb"));

// KEYWORDS, the words that pages are to be found by, too, comes from `- keywords:` in the notebooks: pages.py adds it
const asList = (o) => o === undefined ? [] : Array.isArray(o) ? o : [o];

// The words that a reader may mean by `word`, as the index has them: itself, else those that begin with it
const meant = (word, terms) => Object.hasOwn(terms, word) || word.length < 4 ? [word]
  : Object.keys(terms).filter((o) => o.startsWith(word));

// The pages with a word
const pagesOf = (word, terms) => new Set(meant(word, terms).flatMap((o) => Object.hasOwn(terms, o) ? asList(terms[o]) : []));

const stemmed = (text) => {
  const stemmer = new Stemmer();
  return splitQuery(text.toLowerCase()).filter((o) => !stopwords.has(o)).map((o) => stemmer.stemWord(o));
};

const sum = (xs, f) => xs.reduce((n, x) => n + f(x), 0);

// What each word tells: little if every page has it
const weights = (words, text, inTitle, n) => {
  const on = (w) => new Set([...text.get(w), ...inTitle.get(w)]).size;
  return new Map(words.map((w) => [w, 0.3 + Math.log((n + 1) / (on(w) + 0.5))]));
};

// How well a title answers: the weight of the words that it shares with the query, less if it says much else
const titleScore = (title, words, weight) => {
  const own = [...new Set(stemmed(title))];
  const shared = words.filter((w) => own.some((o) => o === w || w.length > 3 && o.startsWith(w)));
  if (!shared.length) return 0;
  return sum(shared, (w) => weight.get(w)) * Math.sqrt(shared.length / own.length);
};

// The section of each page whose title answers best: page number -> [score, title, anchor]
const bestSections = (words, weight, index) => {
  const best = new Map();
  const add = (title, shown, file, id) => {
    const score = titleScore(title, words, weight);
    if (score > (best.get(file) || [0])[0]) best.set(file, [score, shown, id]);
  };
  for (const [title, places] of Object.entries(index.alltitles))
    for (const [file, id] of places) add(title, title, file, id);
  index.docnames.forEach((doc, file) =>
    (KEYWORDS[doc] || []).forEach((o) => add(o, index.titles[file], file, null)));
  return best;
};

const isExcluded = (file, excluded, index) => [...excluded].some((w) => pagesOf(w, index.terms).has(file));

Search.performTermsSearch = (searchTerms, excludedTerms) => {
  const index = Search._index, words = [...searchTerms].filter((w) => w.length > 1);
  const text = new Map(words.map((w) => [w, pagesOf(w, index.terms)]));
  const inTitle = new Map(words.map((w) => [w, pagesOf(w, index.titleterms)]));
  const weight = weights(words, text, inTitle, index.docnames.length);
  const sections = bestSections(words, weight, index), results = [];
  index.docnames.forEach((doc, file) => {
    if (isExcluded(file, excludedTerms, index)) return;
    const [best, title, id] = sections.get(file) || [0, "", null];
    const found = sum(words, (w) => weight.get(w) * (text.get(w).has(file) + inTitle.get(w).has(file)));
    if (!found && !best) return;
    const guide = Object.keys(GUIDES).find((k) => doc.startsWith(k));
    const score = (found + AS_TITLE * best) * (guide ? GUIDES[guide] : 1);
    const page = index.titles[file], isSection = best && title !== page;
    results.push([doc, isSection ? `${page} > ${title}` : page, isSection && id ? "#" + id : "", null, score,
                  index.filenames[file], isSection ? SearchResultKind.title : SearchResultKind.text]);
  });
  const least = 0.35 * Math.max(...results.map((o) => o[4]));  // the rest only shares a common word
  return results.filter((o) => o[4] >= least);
};
