package compare

import (
	"fmt"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// Describe gives a line for each record of a buffer of actions, or of events.
func Describe(b []byte, events bool) (lines []string) {
	for len(b) > 0 {
		rec, rest, ok := abi.Next(b)
		if !ok {
			return append(lines, "a malformed record: "+hexOf(b))
		}
		b = rest
		if events {
			lines = append(lines, eventText(rec))
		} else {
			lines = append(lines, actionText(rec))
		}
	}
	return lines
}

var actionNames = [...]string{"", "Send", "SendPayload", "SendDigest", "Consume", "Receive", "Discard", "CheckDigest", "Want",
	"Zero", "Extent", "Complete", "Released", "Taken", "Ready", "Data", "Limits", "SetTimer", "Publish", "Message", "Fail",
	"Close", "State", "Hash", "Path", "Redirect", "Log"}

var eventNames = [...]string{"", "Opened", "Request", "Received", "Timer", "Abort", "Goodbye", "Closed", "Message", "Session",
	"Save", "Idle", "Digest", "Payload"}

func nameOf(names []string, kind uint16) string {
	if int(kind) < len(names) && kind > 0 {
		return names[kind]
	}
	return fmt.Sprintf("kind %d", kind)
}

func actionText(rec []byte) string {
	h := abi.Overlay[abi.Header](rec)
	name := nameOf(actionNames[:], h.Kind)
	if h.Flags != 0 {
		name += fmt.Sprintf(" (flags %#x)", h.Flags)
	}
	switch h.Kind {
	case abi.ActConsume, abi.ActDiscard, abi.ActTaken, abi.ActReady:
		return name + show(rec, func(a *abi.Count) string { return fmt.Sprintf(" %d", a.N) })
	case abi.ActReceive, abi.ActSendPayload, abi.ActZero:
		return name + show(rec, func(a *abi.Range) string { return fmt.Sprintf(" request %#x, %d to %d", a.Tag, a.From, a.To) })
	case abi.ActComplete, abi.ActReleased:
		return name + show(rec, func(a *abi.Complete) string {
			return fmt.Sprintf(" request %#x, %v, done %d", a.Tag, block.Status(a.Status), a.Done)
		})
	case abi.ActWant:
		return name + show(rec, func(a *abi.Want) string { return fmt.Sprintf(" %d to %d", a.Min, a.Max) })
	case abi.ActExtent:
		return name + show(rec, func(a *abi.Extent) string {
			return fmt.Sprintf(" request %#x, %d bytes, state %d", a.Tag, a.Length, a.State)
		})
	case abi.ActTimer:
		return name + show(rec, func(a *abi.SetTimer) string { return fmt.Sprintf(" %d in %d ns", a.ID, a.After) })
	case abi.ActLimits:
		return name + " " + limitsText(rec)
	case abi.ActFail:
		return name + show(rec, func(a *abi.Fail) string {
			b, _ := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
			return fmt.Sprintf(" scope %d, %v: %q", a.Scope, block.Status(a.Status), b)
		})
	case abi.ActLog, abi.ActRedirect:
		return name + show(rec, func(a *abi.Bytes) string {
			b, _ := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
			return fmt.Sprintf(" %q", b)
		})
	case abi.ActSend, abi.ActState:
		return name + show(rec, func(a *abi.Bytes) string {
			b, _ := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
			return fmt.Sprintf(" %d bytes %s", a.Len, hexOf(b))
		})
	}
	return name + rawText(rec)
}

func eventText(rec []byte) string {
	h := abi.Overlay[abi.Header](rec)
	name := nameOf(eventNames[:], h.Kind)
	switch h.Kind {
	case abi.EvRequest:
		return name + show(rec, func(a *abi.Request) string {
			return fmt.Sprintf(" %#x, %v, flags %#x, %d bytes at %d", a.Tag, a.Op, a.Mods, a.Length, a.Offset)
		})
	case abi.EvReceived:
		return name + show(rec, func(a *abi.Received) string {
			b, _ := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
			return fmt.Sprintf(" at %d, %d bytes %s", a.Offset, a.Len, hexOf(b))
		})
	case abi.EvOpened:
		return name + show(rec, func(a *abi.Opened) string {
			return fmt.Sprintf(" connection %d, session kind %d, state of %d bytes, stream position %d", a.Conn, a.Session, a.StateLen, a.StreamPos)
		})
	}
	return name + rawText(rec)
}

// show writes a record's fields, or that it is too short for them.
func show[T any](rec []byte, f func(*T) string) string {
	if a := abi.Overlay[T](rec); a != nil {
		return f(a)
	}
	return ", a record that is too short"
}

func rawText(rec []byte) string {
	if len(rec) == int(unsafe.Sizeof(abi.Header{})) {
		return ""
	}
	return " " + hexOf(rec[unsafe.Sizeof(abi.Header{}):])
}
