"""What every room uses: errors, findings, limits, thresholds, the user's code.

Imports no other room.
"""
