"use strict";
// Completions: unpacked once, told apart by what became of them, filtered and sorted.

async function unpackSamples(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { groups, prompts } = await new Response(stream).json();
  return groups.flatMap((group) => {
    group.text = prompts[group.prompt];
    group.flat = withoutSignal(group.samples);
    return group.samples.map((sample, number) => Object.assign(sample, { group, number, tags: tagsOf(sample, group) }));
  });
}

function withoutSignal(samples) {
  const judged = samples.filter((one) => one.total != null && one.advantage != null);
  return judged.length > 1 && judged.every((one) => one.total === judged[0].total);
}

/** What became of a completion, in the words of the filter. */
function tagsOf(sample, group) {
  const tags = [];
  if (sample.finish) tags.push(sample.finish === "length" ? "cut at the limit" : "ended by itself");
  if (sample.right != null) tags.push(sample.right ? "right" : "wrong");
  if (sample.greedy != null) tags.push(sample.greedy ? "greedy" : "sampled");
  if (sample.reason) tags.push(sample.reason === "kept" ? "kept" : `rejected: ${sample.reason}`);
  if (sample.mask_reason) tags.push(`not trained on: ${sample.mask_reason}`);
  for (const [name, status] of Object.entries(sample.status || {})) if (status !== "not_applicable") tags.push(`${name}: ${status}`);
  if (group.flat) tags.push("group without signal");
  if (sample.token_logprobs && sample.token_lengths) tags.push("tokens with probabilities");
  return tags;
}

/** The reward of a name, `total` being the weighted sum. */
function rewardOf(sample, name) {
  return name === "total" ? sample.total : sample.rewards?.[name];
}

function matches(sample, filter) {
  const { group } = sample;
  if (filter.run != null && group.run !== filter.run) return false;
  if (filter.stage && group.stage !== filter.stage) return false;
  if (filter.model && group.model !== filter.model) return false;
  if (!within(group.step, filter.firstStep, filter.lastStep)) return false;
  if (filter.tag && !sample.tags.includes(filter.tag)) return false;
  if (!within(rewardOf(sample, filter.reward), filter.least, filter.most)) return false;
  if (filter.problem && !(lower(group, "problem").startsWith(filter.problem) || lower(group, "text").includes(filter.problem))) return false;
  return !filter.text || lower(sample, "completion").includes(filter.text);
}

/** Whether a number is from `least` to `most`, where these are given. What there is not is in no range: null >= 0 is true. */
function within(number, least, most) {
  if (least == null && most == null) return true;
  return number != null && (least == null || number >= least) && (most == null || number <= most);
}

/** A text in lower case, made once: ten thousand are searched at every letter. */
function lower(owner, name) {
  const key = `lower_${name}`;
  if (owner[key] === undefined) owner[key] = owner[name].toLowerCase();
  return owner[key];
}

const ORDERS = {
  "as they were written": null,
  "highest reward": (a, b) => known(b.total) - known(a.total),
  "lowest reward": (a, b) => known(a.total, Infinity) - known(b.total, Infinity),
  "highest advantage": (a, b) => known(b.advantage) - known(a.advantage),
  "lowest advantage": (a, b) => known(a.advantage, Infinity) - known(b.advantage, Infinity),
  longest: (a, b) => known(b.tokens) - known(a.tokens),
  shortest: (a, b) => known(a.tokens) - known(b.tokens),
};

function known(value, otherwise = -Infinity) {
  return value == null ? (otherwise === Infinity ? 1e300 : -1e300) : value;
}

function chosenSamples(samples, filter, order) {
  const found = samples.filter((sample) => matches(sample, filter));
  const compare = ORDERS[order];
  return compare ? found.sort(compare) : found;
}
