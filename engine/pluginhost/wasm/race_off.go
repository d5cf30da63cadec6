//go:build !race

package wasm

// detectorEnv is for builds with the race detector.
func detectorEnv() []string { return nil }
