// Package slurm submits a job's stages to Slurm as arrays that depend on each
// other, and asks Slurm what became of them. The scripts that run on the nodes
// are plain bash, kept beside the submission, to be read and edited.
package slurm
