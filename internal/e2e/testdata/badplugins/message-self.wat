;; Sends itself messages, and works as long as it may on each.
(func $opened (call $limits) (call $write))
(func $write (call $head (i64.const 19) (i64.const 16)) (call $put (i64.const 0)))
(func $message
  (local $i i32)
  (call $write)
  (local.set $i (i32.const 19000000))
  (loop $l
    (local.set $i (i32.sub (local.get $i) (i32.const 1)))
    (br_if $l (local.get $i))))
