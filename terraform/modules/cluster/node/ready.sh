#!/bin/bash
# Slurm prolog: takes no job on a node that was not set up. Slurm then drains the node and holds the job.
[ -e "${TOKENFORK_ROOT:-}/var/lib/tokenfork/ready" ] && exit 0
echo "tokenfork: this node was not set up, see /var/log/tokenfork-setup.log on it" >&2
exit 1
