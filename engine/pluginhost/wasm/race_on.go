//go:build race

package wasm

import "os"

// detectorEnv hands on how the race detector is set up. Without that each helper
// sleeps for a second at its end.
func detectorEnv() []string { return []string{"GORACE=" + os.Getenv("GORACE")} }
