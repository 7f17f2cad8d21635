"""The controller: engines register here, operators ask here.

It computes keys and keeps pins without a deep-learning framework; who holds
what is soft state that engines tell anew, pins are adopted from engines that
hold them.
"""
