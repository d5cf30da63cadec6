//go:build !amd64 && !arm64

package virtqueue

import "sync/atomic"

var fence atomic.Uint32

// order keeps the compiler from moving stores across it.
func order() { fence.Add(1) }
