;; Has its buffer for actions outside of its memory.
(data (i32.const 24) "\00\00\00\70")
