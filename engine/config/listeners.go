package config

import (
	"fmt"
	"strings"
)

// claim is who listens on an address.
type claim struct {
	who  string // for messages
	line int    // 0: a default
	nbd  bool   // other NBD exports may join
}

// where continues "taken by …".
func (c claim) where() string {
	if c.line == 0 {
		return c.who
	}
	return fmt.Sprintf("%s on line %d", c.who, c.line)
}

// checkListeners finds addresses that two would listen on, and NBD exports
// behind one listener that clients could not tell apart. A wildcard address
// that covers another one is left to the kernel, which knows the interfaces.
func (r *reader) checkListeners() {
	claims := make(map[Address]claim)
	e := r.cfg.Engine
	claims[e.Admin] = claim{who: "the admin socket", line: lineIfWritten(e.Place, "admin")}
	if e.HTTP != "" {
		r.claimHTTP(claims)
	}
	r.claimNBDKernel(claims)
	names := make(map[listener]int)
	for i, s := range r.exports {
		export := r.cfg.Exports[i]
		key, address := "listen", export.Listen
		if export.Frontend == FrontendVhostUser {
			key, address = "socket", Address{"unix", export.Socket}
		}
		if address.Addr == "" {
			continue // missing, or already reported
		}
		c := claim{who: export.Label(), line: s.LineOf(key), nbd: key == "listen"}
		if r.claim(claims, s, key, address, c) && c.nbd {
			uniqueOn(names, s, listener{address, export.Name})
		}
	}
}

func lineIfWritten(p Place, key string) int {
	if p.pos.child(key) == nil {
		return 0
	}
	return p.LineOf(key)
}

func (r *reader) claimHTTP(claims map[Address]claim) {
	e := r.cfg.Engine
	address := Address{"tcp", e.HTTP}
	line := lineIfWritten(e.Place, "http")
	if before, taken := claims[address]; taken && !isPortZero(address) {
		r.problem(max(line, before.line), e.KeyOf("http"),
			fmt.Sprintf("engine: http %s is the address of %s", quote(e.HTTP), before.where()), "choose another port")
		return
	}
	claims[address] = claim{who: "http", line: line}
}

// claim takes an address for an export, or reports who has it.
func (r *reader) claim(claims map[Address]claim, s *section, key string, address Address, c claim) bool {
	before, taken := claims[address]
	if !taken || isPortZero(address) {
		claims[address] = c
		return true
	}
	if before.nbd && c.nbd {
		return true
	}
	s.bad(key, fmt.Sprintf("%s is taken by %s", quote(address.Addr), before.where()), "choose another one")
	return false
}

// listener is what tells NBD exports apart: same address, same server.
type listener struct {
	address Address
	name    string
}

func uniqueOn(names map[listener]int, s *section, l listener) {
	if _, ok := s.values["name"].(string); !ok {
		return // already reported
	}
	if line, taken := names[l]; taken {
		s.bad("name", fmt.Sprintf("%s is already used behind %s, on line %d", quote(l.name), quote(l.address.String()), line),
			"choose another name or another listener")
		return
	}
	names[l] = s.LineOf("name")
}

// isPortZero tells a listener whose port the kernel chooses.
func isPortZero(a Address) bool {
	return a.Network == "tcp" && strings.HasSuffix(a.Addr, ":0")
}
