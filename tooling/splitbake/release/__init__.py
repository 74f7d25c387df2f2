"""Releasing a verified pair: targets are read, a plan is made of steps, the steps are run in the safe order."""
