"""What the published data sets hold: numbers of rows, bytes and characters, nothing read."""

from __future__ import annotations

# Of forget10_perturbed of TOFU: characters of a question with its answer (mean), and choices.
TOFU_TEXT, TOFU_CHOICES = 276, 6
# Of real_authors_perturbed and world_facts_perturbed: characters of questions with each choice.
TOFU_GENERAL = 28_792 + 30_898
# Characters that lm-eval puts around a question of MMLU (mean) and its choices.
WORDING = 85 + 24
MUSE_WORDING = 21  # the same of MUSE, around a question and its answer
# Rows and bytes, as the data cards have them. That of bio-forget-corpus has no bytes: its papers
# are taken to be as long as those of bio-retain-corpus.
PUBLISHED = {
    "bio-forget-corpus": (24_453, 24_453 * 31_384),
    "bio-retain-corpus": (60_887, 1_910_886_303),
    "cyber-forget-corpus": (1_000, 20_901_229),
    "cyber-retain-corpus": (4_473, 60_134_891),
    "wikitext": (36_718, 11_061_717),
    "news-forget": (889, 3_281_546),
    "news-retain1": (1_777, 6_456_895),
    "news-forget_qa": (100, 11_019),
    "news-forget_qa_icl": (10, 1_154),
    "news-retain_qa": (100, 11_425),
    "news-retain_qa_icl": (10, 1_265),
    "news-verbmem": (100, 451_863),
    "books-forget": (4, 4_096_855),
    "books-retain1": (12, 836_924),
    "books-forget_qa": (100, 9_896),
    "books-forget_qa_icl": (10, 1_033),
    "books-retain_qa": (100, 9_398),
    "books-retain_qa_icl": (10, 1_143),
    "books-verbmem": (100, 417_969),
    "wmdp-bio": (1_273, 509_405),
    "wmdp-cyber": (1_987, 1_576_479),
    "mmlu-validation": (1_531, 763_484),
    "mmlu-test": (14_042, 6_967_453),
    # as the paper and the hub's list of files have them, to three digits; passages by the person
    "rwku-passage": (200, 8_900_000),
    "rwku-forget": (3_268 + 2_879, 717_000 + 650_000),
    "rwku-adversarial": (6_984, 1_960_000),
    "rwku-neighbor": (11_379, 1_580_000 + 1_450_000),
    "rwku-mia_forget": (6_198, 5_840_000),
    "rwku-mia_retain": (7_487, 6_700_000),
}
