package vllm

func stopShared() {}
