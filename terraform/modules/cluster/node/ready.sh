#!/bin/bash
# Slurm prolog: takes no job on a node whose file systems are not mounted. Slurm then drains the node and holds the job.
[ -e "${TOKENFORK_ROOT:-}/var/lib/tokenfork/mounted" ] && exit 0
echo "tokenfork: this node's file systems are not mounted, see /var/log/tokenfork-mount.log on it" >&2
exit 1
