/// What every module's error has: a code to decide by, a message of its own layer, and what caused it.
///
/// The message never repeats the cause; whoever shows the error walks the chain (see `chain`).
public protocol CodedError: Error, CustomStringConvertible {
    associatedtype Code: Hashable & Sendable
    var code: Code { get }
    var message: String { get }
    var cause: (any Error)? { get }
}

extension CodedError {
    public var description: String { errorChain(self) }
}

/// The whole chain of an error, outermost first, joined by ": ". Errors that are not `CodedError` end the chain.
public func errorChain(_ error: any Error) -> String {
    guard let coded = error as? any CodedError else { return String(describing: error) }
    guard let cause = coded.cause else { return coded.message }
    return coded.message + ": " + errorChain(cause)
}
