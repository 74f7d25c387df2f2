"""Releasing a verified pair: targets are read, a plan is made of steps, the steps are run in the safe order.

``plan.plan`` reads what is live and returns data; ``run.run`` does it and writes the record.
"""
