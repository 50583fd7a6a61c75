"""Optuna's own samplers, with the settings that suit the search for merges. Each is made anew for every trial."""

from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler


def gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, group=True)


def nsgaii(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed)


def nsgaiii(seed: int) -> BaseSampler:
    return NSGAIIISampler(seed=seed)


def random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)
