;; Says that it has written far more than its buffer holds.
(func $request (param $p i32) (global.set $n (i32.const 0x7ffffff8)))
