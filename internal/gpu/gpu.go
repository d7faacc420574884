// Package gpu tells which GPUs this process may use, and lays servers out over them.
package gpu
