//go:build amd64 || arm64

package virtqueue

// order keeps the compiler from moving stores across it. It is an empty
// function in assembly: the compiler cannot see that it reads nothing, so that
// all stores before the call are made before it, and none after it earlier. The
// processor is not held up: see inflight.go for why it need not be.
//
// (An atomic store would do as well and costs a locked instruction each time on
// amd64: 5 ns against 1.)
func order()
