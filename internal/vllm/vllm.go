// Package vllm starts, watches and ends real vLLM servers, and talks to any
// vLLM server, its own or one that is already running.
//
// A server that Start made is ended with all its children however its owner
// ends, kill -9 included: see GuardMain. A Client sends token ids and gets
// token ids; no failure of any kind looks like an empty continuation.
package vllm
