"""What is known of every job, durably: the Protocols, and one adapter a kind of store.

May write its own store; never talks to the Partner API and never decides what happens to a job: `policy.lifecycle`
says what may follow what, the pipeline says what did.
"""
