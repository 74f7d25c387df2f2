"""The machine's tools: what is there, whether it is good enough, and how to get the rest.

``catalogue`` says what is wanted (data), ``probes`` reads what tools say of themselves, ``diagnose`` joins the
two into findings, ``plan`` turns findings into actions (pure), ``apply`` does them.
"""
