package vhostuser

import (
	"errors"
	"fmt"
	"io"

	"blockengine/engine/sys"
)

// message is a message of the front-end's with the descriptors that came with
// it. Whoever handles it takes those that it keeps; close closes the rest.
type message struct {
	header
	payload []byte
	fds     []int
}

// takeFD gives the message's only descriptor to the caller.
func (m *message) takeFD() int {
	fd := m.fds[0]
	m.fds = nil
	return fd
}

// takeFDs gives all descriptors to the caller.
func (m *message) takeFDs() []int {
	fds := m.fds
	m.fds = nil
	return fds
}

func (m *message) close() {
	for _, fd := range m.fds {
		_ = sys.Close(fd)
	}
	m.fds = nil
}

// stream is a connection as bytes and descriptors; both block.
type stream interface {
	// receive fills some of b, and appends descriptors that came with it.
	receive(b []byte, fds []int) (int, []int, error)
	// send sends all of b, with a descriptor if fd is not negative.
	send(b []byte, fd int) error
}

// errBroken is in every error of a front-end that does not keep to the protocol.
var errBroken = errors.New("the front-end broke the protocol")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errBroken, fmt.Sprintf(format, args...))
}

// readMessage receives a message and checks its form. io.EOF means that the
// front-end has closed the connection between two messages. With an error no
// descriptor is left open.
func readMessage(s stream) (m *message, err error) {
	m = &message{}
	defer func() {
		if err != nil {
			m.close()
			m = nil
		}
	}()
	var b [headerBytes]byte
	if err := m.fill(s, b[:], true); err != nil {
		return m, err
	}
	m.header = decodeHeader(b[:])
	f, err := m.checkHeader()
	if err != nil {
		return m, err
	}
	if m.size > 0 {
		m.payload = make([]byte, m.size) // at most maxPayload
		if err := m.fill(s, m.payload, false); err != nil {
			return m, err
		}
	}
	return m, m.checkDescriptors(f)
}

// fill receives all of b.
func (m *message) fill(s stream, b []byte, first bool) error {
	for got := 0; got < len(b); {
		n, fds, err := s.receive(b[got:], m.fds)
		m.fds = fds
		got += n
		switch {
		case err == io.EOF && first && got == 0 && len(m.fds) == 0:
			return io.EOF
		case err == io.EOF:
			return broken("the connection ended in the middle of a message")
		case err != nil:
			return err
		case len(m.fds) > maxDescriptors:
			return broken("%d descriptors with one message, at most %d make sense", len(m.fds), maxDescriptors)
		}
	}
	return nil
}

func (m *message) checkHeader() (form, error) {
	f, known := forms[m.request]
	switch {
	case !known:
		return f, broken("message type %d (flags %#x, %d bytes): none that is offered", m.request, m.flags, m.size)
	case m.flags&flagVersionMask != flagVersion:
		return f, broken("%s: version %d, there is only 1", f.name, m.flags&flagVersionMask)
	case m.flags&^(flagVersionMask|flagReply|flagNeedReply) != 0:
		return f, broken("%s: flags %#x, of which some mean nothing", f.name, m.flags)
	case m.flags&flagReply != 0:
		return f, broken("%s: a reply to what was not asked", f.name)
	case m.size < f.least || m.size > f.most:
		return f, broken("%s: a payload of %d bytes, want %s", f.name, m.size, f.sizes())
	}
	return f, nil
}

// checkDescriptors checks how many descriptors came; the messages whose number
// depends on their payload check again.
func (m *message) checkDescriptors(f form) error {
	if len(m.fds) < f.leastFDs || len(m.fds) > f.mostFDs {
		return broken("%s: %d descriptors, want %d to %d", f.name, len(m.fds), f.leastFDs, f.mostFDs)
	}
	return nil
}

// form is what a message must look like.
type form struct {
	name              string
	least, most       uint32 // bytes of payload
	leastFDs, mostFDs int
	handle            func(*conn, *message) error
}

func (f *form) sizes() string {
	if f.least == f.most {
		return fmt.Sprint(f.least)
	}
	return fmt.Sprintf("%d to %d", f.least, f.most)
}

// forms are the messages that we understand. It is filled in once: the
// handlers reach it again.
var forms map[uint32]form

func init() {
	forms = map[uint32]form{
		msgGetFeatures:         {"GET_FEATURES", 0, 0, 0, 0, (*conn).getFeatures},
		msgSetFeatures:         {"SET_FEATURES", 8, 8, 0, 0, (*conn).setFeatures},
		msgSetOwner:            {"SET_OWNER", 0, 0, 0, 0, (*conn).nothing},
		msgResetOwner:          {"RESET_OWNER", 0, 0, 0, 0, (*conn).nothing},
		msgSetMemTable:         {"SET_MEM_TABLE", 8, 8 + maxTableSlots*regionBytes, 0, maxTableSlots, (*conn).setMemTable},
		msgSetVringNum:         {"SET_VRING_NUM", stateBytes, stateBytes, 0, 0, (*conn).setVringNum},
		msgSetVringAddr:        {"SET_VRING_ADDR", addrBytes, addrBytes, 0, 0, (*conn).setVringAddr},
		msgSetVringBase:        {"SET_VRING_BASE", stateBytes, stateBytes, 0, 0, (*conn).setVringBase},
		msgGetVringBase:        {"GET_VRING_BASE", stateBytes, stateBytes, 0, 0, (*conn).getVringBase},
		msgSetVringKick:        {"SET_VRING_KICK", 8, 8, 0, 1, (*conn).setVringKick},
		msgSetVringCall:        {"SET_VRING_CALL", 8, 8, 0, 1, (*conn).setVringCall},
		msgSetVringErr:         {"SET_VRING_ERR", 8, 8, 0, 1, (*conn).setVringErr},
		msgGetProtocolFeatures: {"GET_PROTOCOL_FEATURES", 0, 0, 0, 0, (*conn).getProtocolFeatures},
		msgSetProtocolFeatures: {"SET_PROTOCOL_FEATURES", 8, 8, 0, 0, (*conn).setProtocolFeatures},
		msgGetQueueNum:         {"GET_QUEUE_NUM", 0, 0, 0, 0, (*conn).getQueueNum},
		msgSetVringEnable:      {"SET_VRING_ENABLE", stateBytes, stateBytes, 0, 0, (*conn).setVringEnable},
		msgSetBackendReqFD:     {"SET_BACKEND_REQ_FD", 0, 8, 1, 1, (*conn).setBackendReqFD},
		msgGetConfig:           {"GET_CONFIG", configHeader, maxPayload, 0, 0, (*conn).getConfig},
		msgSetConfig:           {"SET_CONFIG", configHeader, configHeader + maxConfig, 0, 0, (*conn).setConfig},
		msgGetInflightFD:       {"GET_INFLIGHT_FD", inflightBytes, inflightBytes + 4, 0, 0, (*conn).getInflightFD},
		msgSetInflightFD:       {"SET_INFLIGHT_FD", inflightBytes, inflightBytes + 4, 1, 1, (*conn).setInflightFD},
		msgResetDevice:         {"RESET_DEVICE", 0, 0, 0, 0, (*conn).resetDevice},
		msgGetMaxMemSlots:      {"GET_MAX_MEM_SLOTS", 0, 0, 0, 0, (*conn).getMaxMemSlots},
		msgAddMemReg:           {"ADD_MEM_REG", 8 + regionBytes, 8 + regionBytes, 1, 1, (*conn).addMemReg},
		msgRemMemReg:           {"REM_MEM_REG", 8 + regionBytes, 8 + regionBytes, 0, 1, (*conn).remMemReg},
		msgSetStatus:           {"SET_STATUS", 8, 8, 0, 0, (*conn).setStatus},
		msgGetStatus:           {"GET_STATUS", 0, 0, 0, 0, (*conn).getStatus},
	}
}
