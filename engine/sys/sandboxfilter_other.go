//go:build !amd64 && !arm64

package sys

import (
	"fmt"
	"runtime"
)

// SandboxRules say which system calls a program does not get.
type SandboxRules struct {
	Network     bool
	BoundShared bool
}

// Install fails: system calls have other numbers on each processor.
func (SandboxRules) Install() error {
	return fmt.Errorf("system calls are filtered on amd64 and arm64 only, not on %s", runtime.GOARCH)
}
