"""The way of a job, from a source's delivery to its outcome:

    source -> feed -> journal.admit -> bounded stream -> deliver xN -> settle -> source.acknowledge
                                       inspect . reserve . put . stored . add   (uncertain -> reconcile)
                                       every request passes its lane's gate; every wait is outside it

    Files that did not change since an earlier run added them stop at the feed: it has the journal tell them in bulk.

Names no concrete source, journal or transport, reads no environment, prints nothing, handles no signal.
"""
