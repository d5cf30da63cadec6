package nbdtest

import "fmt"

// allowedFlags are the command flags that each command has.
var allowedFlags = map[uint16]uint16{
	CmdRead:        CmdFlagFUA | CmdFlagDF,
	CmdWrite:       CmdFlagFUA | CmdFlagPayloadLen,
	CmdFlush:       CmdFlagFUA,
	CmdTrim:        CmdFlagFUA,
	CmdCache:       CmdFlagFUA,
	CmdWriteZeroes: CmdFlagFUA | CmdFlagNoHole | CmdFlagFastZero,
	CmdBlockStatus: CmdFlagFUA | CmdFlagReqOne,
}

// neededFlags are the transmission flags that expose a command or flag.
var (
	neededByOp = map[uint16]uint16{CmdFlush: FlagSendFlush, CmdTrim: FlagSendTrim,
		CmdWriteZeroes: FlagSendWriteZeroes, CmdCache: FlagSendCache}
	neededByFlag = map[uint16]uint16{CmdFlagFUA: FlagSendFUA, CmdFlagDF: FlagSendDF, CmdFlagFastZero: FlagSendFastZero}
)

// maxProvision is the most that the server will allocate for one NO_HOLE zeroing.
const maxProvision = 1 << 30

// judge checks a request as a strict server does: the error to answer with (0:
// carry it out) and, if the client broke a rule, which.
func (c *serverConn) judge(h header, payload []byte) (errno uint32, complaint string) {
	allowed, known := allowedFlags[h.Op]
	if !known {
		return EINVAL, "unknown command"
	}
	if extra := h.Flags &^ allowed; extra != 0 {
		return EINVAL, fmt.Sprintf("flags %#x do not belong to it", extra)
	}
	if c.extended && h.Op == CmdWrite && payload == nil {
		return EINVAL, "write without PAYLOAD_LEN"
	}
	if !c.extended && h.Flags&CmdFlagPayloadLen != 0 {
		return EINVAL, "PAYLOAD_LEN without extended headers"
	}
	if complaint := c.judgeExposed(h); complaint != "" {
		return EINVAL, complaint
	}
	if h.Op == CmdFlush {
		if h.Offset != 0 || h.Length != 0 {
			return EINVAL, "offset and length of a flush must be 0"
		}
		return 0, ""
	}
	return c.judgeRange(h)
}

// judgeExposed checks that what is used was offered.
func (c *serverConn) judgeExposed(h header) string {
	offered := c.flags(c.export)
	if need := neededByOp[h.Op]; offered&need != need {
		return "command was not offered"
	}
	for flag, need := range neededByFlag {
		if h.Flags&flag != 0 && offered&need == 0 {
			return fmt.Sprintf("flag %#x was not offered", flag)
		}
	}
	if h.Op == CmdBlockStatus && c.metaID == 0 {
		return "no metadata context was selected"
	}
	return ""
}

func (c *serverConn) judgeRange(h header) (uint32, string) {
	size := c.export.size()
	changes := h.Op == CmdWrite || h.Op == CmdTrim || h.Op == CmdWriteZeroes
	switch {
	case changes && c.export.flags()&FlagReadOnly != 0:
		return EPERM, "the export is read-only"
	case h.Length == 0:
		return EINVAL, "length 0"
	case h.Offset > size || h.Length > size-h.Offset:
		if h.Op == CmdWrite || h.Op == CmdWriteZeroes {
			return ENOSPC, "beyond the end"
		}
		return EINVAL, "beyond the end"
	case h.Op == CmdRead && h.Length > c.maxPayload():
		return EINVAL, fmt.Sprintf("read of more than %d bytes", c.maxPayload())
	case h.Op == CmdWriteZeroes && h.Flags&CmdFlagNoHole != 0 && h.Length > maxProvision:
		return ENOSPC, ""
	}
	if b := c.export.BlockSize; b != nil && c.askedSizes && (h.Offset|h.Length)%uint64(b.Min) != 0 {
		return EINVAL, fmt.Sprintf("not aligned to the minimum block size %d", b.Min)
	}
	return 0, ""
}

// violation notes a breach of the protocol by a client.
func (s *Server) violation(conn int, err *ProtocolError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaches = append(s.breaches, fmt.Sprintf("connection %d: %v", conn, err))
}

// Violations lists what clients did against the protocol, in order.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.breaches...)
}
