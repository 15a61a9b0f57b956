"""What the kinds and fields of the table mean, for people: the formula of each kind, and a line for each field."""

from __future__ import annotations

# p is the next token's distribution after the fields that come before in docs/strategies.md, H its entropy in nats.
FORMULAS: dict[str, str] = {
    "greedy": "next token = argmax p(v)",
    "beam": "of all sequences y that num_beams beams find, the one of the highest\n"
    "sum over t of log p(y_t | y_<t) / |y| ^ length_penalty",
    "diverse-beam": "as beam, in num_beam_groups groups one after the other; group g ranks by\n"
    "log p(v) - diversity_penalty * (how many beams of groups before g chose v here)",
    "beam-sample": "as beam, but the candidates of a step are drawn without replacement, each with a\n"
    "probability in proportion to exp(score of its sequence), not taken from the top",
    "sample": "draw v with probability p(v) ~ exp(logit(v) / temperature)",
    "top-k": "keep v if p(v) >= the top_k-th largest p",
    "top-p": "keep the fewest tokens V, from the likeliest down, with\nsum over V of p(v) >= top_p",
    "min-p": "keep v if p(v) >= min_p * max p",
    "typical": "keep the fewest tokens V, from the smallest |-log p(v) - H| up, with\nsum over V of p(v) >= typical_p",
    "epsilon": "keep v if p(v) >= epsilon_cutoff, and always the likeliest",
    "eta": "keep v if p(v) >= min(eta_cutoff, sqrt(eta_cutoff) * exp(-H)), and always the\nlikeliest",
    "top-h": "keep the most tokens V, from the likeliest of 100 down, with\n"
    "sum over V of -p(v) log p(v) <= top_h * H, and always the likeliest",
    "top-n-sigma": "keep v if logit(v) >= max logit - top_n_sigma * (standard deviation of the logits)",
    "mirostat": "keep v if -log2 p(v) <= mu, and always the likeliest; mu starts at\n"
    "2 * mirostat_tau; after drawing v, mu falls by\nmirostat_eta * (-log2 p(v) - mirostat_tau)",
    "contrastive": "of the top_k likeliest tokens V, the next token = argmax over V of\n"
    "(1 - penalty_alpha) * p(v) - penalty_alpha * max over j of cos(h(v), h(x_j)),\n"
    "h the last hidden state, x_j the tokens so far",
    "dola": "the next token = argmax of log softmax(last layer) - log softmax(layer m), m the\n"
    "early layer whose distribution is the farthest from the last one's, among the\n"
    "tokens that are likely enough by the last layer",
}

MEANINGS: dict[str, str] = {
    "temperature": "divides the logits; below 1 the likely gets likelier; 0 is greedy",
    "top_k": "keeps this many of the likeliest tokens; 0 in a kind that has another filter keeps all",
    "top_p": "keeps the fewest tokens that hold this much probability; 1 keeps all",
    "min_p": "keeps tokens at least this many times as likely as the likeliest; 0 keeps all",
    "typical_p": "keeps the tokens whose surprise is nearest the entropy, this much in all; 1 keeps all",
    "epsilon_cutoff": "keeps tokens of this probability or more; 0 keeps all",
    "eta_cutoff": "as epsilon_cutoff, but lower where the distribution is flat; 0 keeps all",
    "top_h": "keeps the likeliest tokens that hold this part of the entropy; 0 keeps all",
    "top_n_sigma": "keeps tokens within this many standard deviations of the top logit; 0 keeps all",
    "mirostat_tau": "the surprise to aim at, in bits a token",
    "mirostat_eta": "how fast mu follows the error",
    "xtc_probability": "how often the top choices but the last are ruled out; 0 is never",
    "xtc_threshold": "the probability that makes a token a top choice",
    "logit_bias": "adds BIAS, from -1000000 to 1000000, to the logit of the token of that ID; empty is none",
    "repetition_penalty": "divides positive logits of tokens in prompt and text, multiplies negative ones",
    "presence_penalty": "taken from the logits of tokens that were generated before",
    "frequency_penalty": "taken from a token's logit for every time that it was generated before",
    "dry_multiplier": "the penalty for repeating dry_allowed_length tokens and one more; 0 is none",
    "dry_base": "what that penalty grows by with every further token repeated",
    "dry_allowed_length": "how many tokens may be repeated without penalty",
    "no_repeat_ngram_size": "no so many tokens in a row come twice, the prompt's included; 0 is off",
    "bad_words": "no text holds these words, as they are or after a space; %2C is a comma; empty is none",
    "min_new_tokens": "no end before so many tokens",
    "num_beams": "how many sequences are kept side by side",
    "length_penalty": "above 0 favours longer texts, below 0 shorter ones",
    "early_stopping": "when to stop: true at num_beams finished ones, false when no better is likely, "
    "never when no better is possible",
    "num_beam_groups": "how many groups the beams are in",
    "diversity_penalty": "taken from the score of a token for every beam of an earlier group that chose it",
    "penalty_alpha": "the weight of being unlike what was there before; 0 is greedy",
    "dola_layers": "which early layers are compared: low or high",
}
