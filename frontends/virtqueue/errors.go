package virtqueue

import (
	"errors"
	"fmt"
)

// ErrRing is in every error of a ring whose content breaks the specification.
// It ends the queue: only a driver that resets the device can mend it.
var ErrRing = errors.New("the driver broke the rules of the ring")

// ErrInflight is in every error of an in-flight region whose content
// contradicts itself or the ring.
var ErrInflight = errors.New("the in-flight region cannot be used")

// fail ends the queue with an error that every later Pop repeats.
//
//go:noinline
func (q *Queue) fail(format string, args ...any) error {
	q.err = fmt.Errorf("virtqueue %d: %w: %s", q.index, ErrRing, fmt.Sprintf(format, args...))
	return q.err
}

// failChain is fail for the chain that starts at head.
//
//go:noinline
func (q *Queue) failChain(head uint16, format string, args ...any) error {
	return q.fail("chain at descriptor %d: %s", head, fmt.Sprintf(format, args...))
}
