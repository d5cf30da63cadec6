package nbdtest

import "fmt"

// ProtocolError is a breach of the protocol by the peer, as opposed to an error
// that the peer reported or a connection that ended.
type ProtocolError struct {
	Where string // what was being received, e.g. "reply to read cookie 0x1"
	What  string // what was wrong with it
}

func (e *ProtocolError) Error() string { return "protocol violation in " + e.Where + ": " + e.What }

func violation(where, format string, args ...any) error {
	return &ProtocolError{Where: where, What: fmt.Sprintf(format, args...)}
}

// OptionError is an error reply to a handshake option.
type OptionError struct {
	Option, Reply uint32
	Message       string
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("option %d refused with reply %#x %q", e.Option, e.Reply, e.Message)
}
