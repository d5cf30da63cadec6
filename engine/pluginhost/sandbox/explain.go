package sandbox

import (
	"errors"
	"fmt"
	"os"

	"blockengine/engine/sys"
)

// turnOff is the last way out.
const turnOff = `or set sandbox = "off" for a plugin that you trust`

// explainFork says why no process could be made.
func explainFork(err error, s *Spec) error {
	if s.Mode != Strict {
		return fmt.Errorf("no process can be made for it: %w", err)
	}
	var why string
	switch {
	case errors.Is(err, sys.EPERM) && os.Geteuid() == 0:
		why = "root may not make namespaces here, as in a container without CAP_SYS_ADMIN: give it that capability"
	case errors.Is(err, sys.EPERM), errors.Is(err, sys.ENOSPC):
		why = userNamespaces
	case errors.Is(err, sys.EINVAL):
		why = "the kernel was built without some kind of namespaces: use another kernel"
	default:
		return fmt.Errorf("no process can be made for its sandbox: %w", err)
	}
	return fmt.Errorf("no process can be made for its sandbox: %w: %s, %s", err, why, turnOff)
}

const userNamespaces = "users other than root may not use user namespaces here: allow it " +
	"(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), " +
	"run the engine as root"

// explain says why the shim failed.
func explain(r *refusal, s *Spec) error {
	err := fmt.Errorf("its sandbox failed to %s: %w", r.Step, &shimError{r})
	why := ""
	switch {
	case r.Step == "execute it":
		return explainExec(r, s)
	case r.Errno == sys.ENOSYS:
		why = "the kernel is too old; the sandbox needs Linux 5.14"
	case (r.Errno == sys.EPERM || r.Errno == sys.EACCES) && os.Geteuid() != 0:
		why = userNamespaces
	case r.Errno == sys.EPERM || r.Errno == sys.EACCES:
		why = "root is not allowed to do this here, as in a container that keeps capabilities or system calls from it: give it CAP_SYS_ADMIN, CAP_SETPCAP, CAP_SETUID and CAP_SETGID"
	default:
		return err
	}
	if s.Mode != Strict {
		return fmt.Errorf("%w: %s", err, why)
	}
	return fmt.Errorf("%w: %s, %s", err, why, turnOff)
}

func explainExec(r *refusal, s *Spec) error {
	err := fmt.Errorf("%s cannot be executed: %w", s.Path, r.Errno)
	switch r.Errno {
	case sys.EACCES:
		return fmt.Errorf("%w: give everybody the right to read and execute it (chmod 755), and see that its file system is not mounted noexec", err)
	case sys.ENOEXEC:
		return fmt.Errorf("%w: it is no program for this processor", err)
	case sys.ENOENT:
		return fmt.Errorf("%w: it is a script, or the loader or a library that it names is not there: build it with CGO_ENABLED=0", err)
	}
	return err
}

// shimError is an error that happened in the shim.
type shimError struct{ r *refusal }

func (e *shimError) Error() string { return e.r.Text }

// Unwrap gives the errno, for errors.Is.
func (e *shimError) Unwrap() error {
	if e.r.Errno == 0 {
		return nil
	}
	return e.r.Errno
}
