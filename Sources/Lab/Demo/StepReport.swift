import Base
import Glibc

/// Prints the steps of a long piece of work with their seconds: a line when a step begins on a terminal, overwritten
/// when it ends; plain lines otherwise. `NO_COLOR` is honoured.
public struct StepReport: Sendable {
    private let start = ContinuousClock.now
    private let isTerminal: Bool
    private let hasColor: Bool

    public init() {
        isTerminal = isatty(STDOUT_FILENO) == 1
        hasColor = isTerminal && getenv("NO_COLOR") == nil
    }

    /// Carries out one step and prints its name, its result and how long it took.
    @discardableResult
    public func step<Value>(
        _ name: String, _ body: () async throws -> Value, detail: (Value) -> String = { _ in "" }
    ) async throws -> Value {
        let began = ContinuousClock.now
        if isTerminal { put("  .....  \(name)", newline: false) }
        do {
            let value = try await body()
            let result = detail(value)
            let line = "\(seconds(ContinuousClock.now - began))  \(name)\(result.isEmpty ? "" : ": " + result)"
            put((isTerminal ? "\r\u{1B}[K" : "") + paint("  " + line, "32"))
            return value
        } catch {
            put((isTerminal ? "\r\u{1B}[K" : "") + paint("  failed  \(name)", "31"))
            throw error
        }
    }

    public func title(_ text: String) { put("\n" + paint(text, "1")) }

    /// Output of a tool, indented below the step that ran it, behind the command that a person would type.
    public func show(_ command: String, _ output: String) {
        put("         $ \(command)")
        for line in output.split(separator: "\n", omittingEmptySubsequences: true) { put("           \(line)") }
    }

    public func say(_ text: String) { put("         " + text) }

    public var elapsed: Duration { ContinuousClock.now - start }

    /// Seconds with one decimal, right-aligned: ` 12.3 s`.
    func seconds(_ duration: Duration) -> String {
        let tenths = Int((duration.inSeconds * 10).rounded())
        let text = "\(tenths / 10).\(tenths % 10) s"
        return String(repeating: " ", count: max(0, 7 - text.count)) + text
    }

    private func paint(_ text: String, _ code: String) -> String {
        hasColor ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text
    }

    private func put(_ text: String, newline: Bool = true) {
        print(text, terminator: newline ? "\n" : "")
        fflush(nil)
    }
}
