package process

import (
	"context"
	"errors"
	"fmt"

	"blockengine/sdk/process/control"
)

// MapMemory implements control.Server.
func (s *server) MapMemory(ctx context.Context, m *control.MapMemory) (*control.Done, error) {
	if s.opt.Store == nil {
		return nil, errors.New("this plugin encapsulates a protocol and has no use for memory of virtual machines")
	}
	fds, err := s.inbox.take(ctx, m.Memory)
	if err != nil {
		return nil, err
	}
	defer closeAll(fds) // a mapping keeps its file
	if len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors came for memory %d: 1, its file", len(fds), m.Memory)
	}
	if err := s.memory.Map(m.Memory, fds[0], m.Offset, m.Size); err != nil {
		return nil, err
	}
	return &control.Done{}, nil
}

// ForgetMemory implements control.Server. Memory that is not there is forgotten.
func (s *server) ForgetMemory(ctx context.Context, m *control.ForgetMemory) (*control.Done, error) {
	s.inbox.drop(m.Memory)
	if err := s.memory.Forget(ctx, m.Memory); err != nil {
		return nil, err
	}
	return &control.Done{}, nil
}
