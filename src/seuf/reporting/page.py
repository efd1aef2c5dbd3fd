"""The words and the looks of the report; `report` puts the numbers in."""

CAPTIONS = {
    "efficacy_utility": (
        "Forgetting against utility",
        "Each mark is a method, scored on questions that had no part in choosing its checkpoint. "
        "Up and to the left is better: the star is a model that guesses on what it should forget "
        "and knows all else as before. Bars are one standard error. Click an objective to hide its "
        "methods.",
    ),
    "tokens_per_expert": (
        "Who handles the forget set",
        "Share of the tokens that go to each expert of the original model, in layers where a rule "
        "chose an expert; arrows name the rule. The dotted line is an even share. A high dark "
        "bar beside a low light one is a specialist of the forget set; two high bars are a "
        "generalist, which all knowledge needs.",
    ),
    "overlap_over_steps": (
        "Does routing stay where it was",
        "Share of the chosen experts that the original model chose too, on the same tokens, while "
        "unlearning goes on; only the learning rate that was kept. Upper row: forget set, lower "
        "row: retain set. The dot is the checkpoint that was kept; at step 0 it is the original. A "
        "falling line is a router that sends tokens elsewhere instead of an expert that forgets.",
    ),
}

GLOSSARY = {
    "forget accuracy (FE)": "Share of right answers about what is to be forgotten, the paper's "
    "forget efficacy. Lower is better, down to the accuracy of guessing.",
    "retain accuracy (UT)": "Share of right answers about everything else, the paper's utility. "
    "Higher is better.",
    "balance": "Retain accuracy minus what forget accuracy is above guessing. Checkpoints are "
    "chosen by it, on other questions than those reported here.",
    "overlap": "Share of the experts chosen for a token that the original model chose too. 1 means "
    "that routing is as it was.",
    "weights trained": "Share of the model's parameters that were in training.",
    "score, margin": "What a rule gave the expert it chose, and how much less the runner-up got. "
    "Affinity: mean gate probability on the forget set. Contrast: minus that on the retain set. "
    "ESFT: share of a layer's tokens or affinity, so nobody is next. A number at a rule's name is "
    "a rank: affinity_2 takes the second best.",
    "stability": "Share of the rule's six best experts on which both halves of the samples agree; "
    "of ESFT by affinity, of all that a half chooses.",
    "± ": "One standard error of the mean over questions. It does not tell how much another "
    "random seed would change.",
}

GENERATION_GLOSSARY = {
    "ROUGE-L": "Share of the true answer's words that a generated answer has in the same order.",
}

LIMITS = [
    "Numbers are of one base model, one seed and these questions; differences within two standard "
    "errors are no ranking.",
    "Low accuracy is not proof that the knowledge is gone: attacks that bring it back "
    "(relearning, other prompts, forcing other experts) are not part of these scores.",
    "Each method is one point of a trade-off. Compare methods at equal forget accuracy before "
    "you call one better.",
    "Seconds are those of the machine that ran the study, all learning rates together.",
]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SEUF: what was forgotten, what is left</title>
<style>
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5b6773; --line: #dfe3e8;
  --page: #f6f7f9; --card: #fff; --best: #e8f3fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb8; --line: #36404a;
  --page: #14181d; --card: #1c2228; --best: #17324a; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.015em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; }
.summary { font-size: 1.1rem; max-width: 56rem; margin: 0 0 1.4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; }
.tiles div, .wide, figure { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.tiles div { padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.tiles span, figcaption, small, dd { color: var(--soft); }
.tiles span { font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: normal;
  vertical-align: bottom; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tbody tr + tr td { border-top: 1px solid var(--line); }
tr.best td { background: var(--best); font-weight: 600; }
td i { font-style: normal; display: inline-block; width: 1.3em; } td small { font-size: .82em; }
figure { margin: 0; padding: 0 0 .9rem; color-scheme: light; overflow: hidden; }
figure > div { background: #fff; }
figcaption { padding: .8rem 1.2rem 0; font-size: .92rem; max-width: 54rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.4rem; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
li { margin: .3rem 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .6rem; } }
@media print { body { background: #fff; } figure, .wide { break-inside: avoid; } }
</style>
<script>$plotly</script>
</head>
<body>
<main>
<h1>What was forgotten, what is left</h1>
<p class="summary">$summary</p>
$headline
<h2>The methods</h2>
$comparison
$efficacy_utility
$tokens_per_expert
<h2>The experts under treatment</h2>
$experts
$overlap_over_steps
<h2>Words</h2>
<dl>$glossary</dl>
<h2>Limits</h2>
<ul>$limits</ul>
</main>
</body>
</html>
"""
