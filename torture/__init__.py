"""A campaign of faults against Sidestage as it is: kills, power cuts, full disks, jumping clocks, and more.

``python -m torture`` injects them and prints one line for each family: what was injected and acknowledged,
and which promises were broken. A negative control is the same campaign against a Sidestage from which one
safeguard was taken out: if it is not found guilty, the judge is too mild, and the campaign fails.
"""
